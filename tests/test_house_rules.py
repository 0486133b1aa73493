"""The house rules that a machine can check, over every source file of the project."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("nanochat", "sweeps", "cli", "scripts", "bench", "tests")
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
CODE = [path for path in SOURCES if ROOT / "tests" not in path.parents]
TEXTS = [
    *SOURCES,
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / name for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/run", ".ci/try_wheel.sh")),
    *(ROOT / name for name in (".editorconfig", ".pre-commit-config.yaml", ".github/workflows/ci.yml")),
]
MAX_LINES = 450
MAX_FUNCTION_LINES = 60  # half of that fits a screen; commands list many options
MAX_LOOP_LINES = 120  # the training loop is read from top to bottom
# In pieces, so that this file does not hold what it looks for.
NOT_FOR_READERS = ["TO" + "DO", "FIX" + "ME", "HA" + "CK", r"\bX" + r"XX\b"]
ONE_MACHINE_ONLY = [r"(?<![\w./-])/wo" + "rk/", "/tmp/pl" + "an", r"\.\./sha" + "red", r"/ro" + "ot/"]
STOPWATCHES = re.compile(r"\bprocess_" + r"time\(|\bperf_" + r"counter\(|\bget" + r"rusage\b")
RAYS_OWN = re.compile(r"\bray(?:\.\w+)*\._|CHECKPOINT_MANAGER|checkpoint_" + r"manager|gcs_" + r"server\b")
REGISTRIES = ["py" + r"pi\.org", "python" + r"hosted\.org", r"download\.py" + "torch", "npm" + r"js\.(?:org|com)"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Functions and classes at the top of a module, and the methods of its classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    """Every source file, parsed."""
    return {path: ast.parse(path.read_text()) for path in SOURCES}


def lines_with(pattern: "re.Pattern[str]", paths: Iterable[Path]) -> list[str]:
    return [
        f"{name(path)}:{number}: {line}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(ROOMS)
    assert all(path.is_file() for path in TEXTS)


def test_a_file_is_one_idea_of_readable_length() -> None:
    lengths = {name(path): len(path.read_text().splitlines()) for path in SOURCES}
    too_long = {file: n for file, n in lengths.items() if n > MAX_LINES}
    assert too_long == {}, f"{MAX_LINES} lines at most: split it by ideas"


def test_a_file_says_its_idea_first(trees: dict[Path, ast.Module]) -> None:
    bare = [name(path) for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
    assert bare == [], "a file needs a docstring with its idea and why"


def test_public_functions_and_classes_say_what_they_are(trees: dict[Path, ast.Module]) -> None:
    bare = [
        f"{name(path)}:{node.lineno} {node.name}"
        for path in CODE
        for node in definitions(trees[path])
        if not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert bare == []


def test_functions_fit_a_screen(trees: dict[Path, ast.Module]) -> None:
    lengths = {
        f"{name(path)}: {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in CODE
        for node in ast.walk(trees[path])
        if isinstance(node, ast.FunctionDef)
    }
    limits = {"nanochat/train.py: _train": MAX_LOOP_LINES}
    assert {f: n for f, n in lengths.items() if n > limits.get(f, MAX_FUNCTION_LINES)} == {}


def test_nothing_is_unfinished_or_meant_for_one_machine() -> None:
    unwanted = re.compile("|".join([*NOT_FOR_READERS, *ONE_MACHINE_ONLY, *REGISTRIES]))
    assert lines_with(unwanted, TEXTS) == []


def test_no_test_is_a_stopwatch() -> None:
    found = lines_with(STOPWATCHES, (path for path in SOURCES if path not in CODE))
    assert found == [], "a test of speed fails on a slower machine; measure it in bench/, beside a control"


def test_what_is_private_to_ray_is_used_in_one_file() -> None:
    allowed = ROOT / "sweeps" / "engine" / "ray_private.py"
    assert lines_with(RAYS_OWN, (path for path in CODE if path != allowed)) == []
    assert lines_with(RAYS_OWN, [allowed]) != []
