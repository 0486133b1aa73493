"""The house rules that a machine can check, over every source file of the project."""

import ast
import re
from collections.abc import Iterator
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
    *(ROOT / name for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/run")),
]
MAX_LINES = 450
MAX_FUNCTION_LINES = 60  # half of that fits a screen; verbs list many options
MAX_LOOP_LINES = 120  # the training loop is read from top to bottom
# In pieces, so that this file does not hold what it looks for.
NOT_FOR_READERS = ["TO" + "DO", "FIX" + "ME", "HA" + "CK", r"\bX" + r"XX\b"]
ONE_MACHINE_ONLY = [r"(?<![\w./-])/wo" + "rk/", "/tmp/pl" + "an", r"\.\./sha" + "red", r"/ro" + "ot/"]
STOPWATCHES = re.compile(r"\bprocess_" + r"time\(|\bperf_" + r"counter\(|\bget" + r"rusage\b")
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


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_is_one_idea_of_readable_length(path: Path) -> None:
    num_lines = len(path.read_text().splitlines())
    assert num_lines <= MAX_LINES, f"{name(path)} has {num_lines} lines, {MAX_LINES} at most: split it by ideas"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.stat().st_size], ids=name)
def test_a_file_says_its_idea_first(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name(path)} needs a docstring with its idea and why"


@pytest.mark.parametrize("path", CODE, ids=name)
def test_public_functions_and_classes_say_what_they_are(path: Path) -> None:
    bare = [
        f"{name(path)}:{node.lineno} {node.name}"
        for node in definitions(ast.parse(path.read_text()))
        if not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert bare == []


@pytest.mark.parametrize("path", CODE, ids=name)
def test_functions_fit_a_screen(path: Path) -> None:
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    lengths = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
    limits = {"_train": MAX_LOOP_LINES} if name(path) == "nanochat/train.py" else {}
    assert {f: n for f, n in lengths.items() if n > limits.get(f, MAX_FUNCTION_LINES)} == {}


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_nothing_is_unfinished_or_meant_for_one_machine(path: Path) -> None:
    unwanted = re.compile("|".join([*NOT_FOR_READERS, *ONE_MACHINE_ONLY, *REGISTRIES]))
    lines = path.read_text().splitlines()
    found = [f"{name(path)}:{i}: {line}" for i, line in enumerate(lines, 1) if unwanted.search(line)]
    assert found == []


@pytest.mark.parametrize("path", [p for p in SOURCES if p not in CODE], ids=name)
def test_no_test_is_a_stopwatch(path: Path) -> None:
    lines = path.read_text().splitlines()
    found = [f"{name(path)}:{i}: {line}" for i, line in enumerate(lines, 1) if STOPWATCHES.search(line)]
    assert found == [], "a test of speed fails on a slower machine; measure it in bench/, beside a control"
