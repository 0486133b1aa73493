"""ARCHITECTURE.md and the other documents name what there is: every folder, every door of the trainer, every path."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
CODE = ("nanochat", "sweeps", "cli", "scripts", "bench")
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
PATH = re.compile(rf"`((?:{'|'.join((*CODE, 'tests', 'docs', '.github', '.ci'))})/[\w./-]*)(?:::\w+)?`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def section(title: str) -> str:
    """A section of ARCHITECTURE.md, from its heading to the next."""
    return ARCHITECTURE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def trainer_modules() -> set[str]:
    """Every module of the trainer by its dotted name."""
    return {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "nanochat").rglob("*.py")}


def imported_from_the_trainer(path: Path) -> Iterator[str]:
    """The trainer's modules that a file imports, inside functions too."""
    modules = trainer_modules()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nanochat":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules else node.module
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "nanochat")


def test_every_folder_with_python_files_has_a_line() -> None:
    folders = {path.parent.relative_to(ROOT) for room in CODE for path in (ROOT / room).rglob("*.py")}
    listed = section("Packages")
    assert len(folders) > 20
    assert [str(folder) for folder in sorted(folders) if f"\n| `{folder}/` |" not in listed] == []


def test_a_folder_that_has_a_line_exists() -> None:
    listed = re.findall(r"^\| `([\w/]+)/` \|", section("Packages"), re.MULTILINE)
    assert [folder for folder in listed if not (ROOT / folder).is_dir()] == []


def test_the_doors_are_the_modules_of_the_trainer_that_other_code_imports() -> None:
    listed = set(re.findall(r"`(nanochat(?:\.\w+)+)`", section("Doors of the trainer")))
    outside = [path for room in ("cli", "sweeps", "scripts") for path in (ROOT / room).rglob("*.py")]
    opened = {name for path in outside for name in imported_from_the_trainer(path)}
    assert opened - listed == set(), "a new door is a decision: use one of the listed ones, or list it with its reason"
    assert listed - opened == set(), "nobody opens these any more"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    named = {ROOT / path for path in PATH.findall(text) if "NAME" not in path}
    named |= {document.parent / link for link in LINK.findall(text)}
    assert sorted(str(path) for path in named if not path.exists()) == []


def test_paths_are_found_in_documents() -> None:
    assert PATH.findall("`docs/fp8.md` and `tests/test_readme.py::test_x`, `not/here.py`, `cli/`") == [
        "docs/fp8.md",
        "tests/test_readme.py",
        "cli/",
    ]
    assert LINK.findall("[a](docs/a.md#part), [b](https://example.org), [c](#part)") == ["docs/a.md"]


def test_every_decision_is_in_the_index_with_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    titles = {path.name: path.read_text().splitlines()[0].removeprefix("# ") for path in sorted(folder.glob("0*.md"))}
    missing = [f"- [{title[:4]}]({name}) {title[5:]}" for name, title in titles.items() if title[5:] not in index]
    assert missing == [], "add these lines"
    numbers = [name[:4] for name in titles]
    assert sorted(set(numbers)) == numbers, "a number is used twice: take the next free one"
