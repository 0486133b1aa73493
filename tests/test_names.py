"""A public name of a module stands for one thing in the whole project."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("nanochat", "sweeps", "cli")
ONE_INTERFACE = {
    "SWEEP": "every sweep file defines it",
    "head_problem": "why a kernel cannot serve heads of this size",
    "prepare_for_compiler": "what a kernel's module does before torch.compile sees it",
    "extents": "the sizes of gradients, by an own kernel or by torch",
    "adamw_apply": "AdamW's update, by an own kernel or by torch",
    "muon_apply": "Muon's update, by an own kernel or by torch",
    "muon_direction": "Muon's direction, by an own kernel or by torch",
}
"""Names that several modules define, because callers choose between them; each with what it stands for."""


def public_names(source: str) -> Iterator[str]:
    """Functions, classes and constants at the top of a module; type variables, which have one letter, do not count."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_") and len(name) > 1)


def names_of_several(sources: dict[str, str]) -> dict[str, list[str]]:
    """The names that more than one module defines, with those modules."""
    modules: dict[str, list[str]] = defaultdict(list)
    for module, source in sources.items():
        for name in set(public_names(source)):
            modules[name].append(module)
    return {name: sorted(where) for name, where in modules.items() if len(where) > 1}


def test_a_public_name_has_one_meaning() -> None:
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    several = names_of_several({str(path.relative_to(ROOT)): path.read_text() for path in paths})
    assert len(paths) > 300
    unexpected = {name: where for name, where in several.items() if name not in ONE_INTERFACE}
    assert unexpected == {}, "rename the one that fewer modules use, or keep the thing itself in one place"
    assert ONE_INTERFACE.keys() - several.keys() == set(), "these are defined once now"


def test_names_are_found_whatever_defines_them() -> None:
    sources = {
        "a": "class Mark: ...\nPOLL_S: float = 1\n_own = 1\nT = 2",
        "b": "Mark = 1\ndef POLL_S(): ...\n_own = T = 1",
    }
    assert names_of_several(sources) == {"Mark": ["a", "b"], "POLL_S": ["a", "b"]}
