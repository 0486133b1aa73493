"""What a sweep file can import from its own folder: modules next to it, seen by this file and by nothing else.

While the file runs, and whenever its `leg_name` is called later, its neighbours are importable and come before
installed packages of the same name. In between they are not in `sys.modules`, so two sweeps can each have their own
`common.py`. A neighbour cannot hide the standard library or this project's packages, and no cache is written there.

A worker needs no neighbour: what it gets is the plan, in plain values.
"""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_NEVER_HIDDEN = frozenset(sys.stdlib_module_names) | {"nanochat", "sweeps", "cli", "scripts", "bench"}


class _Loader(SourceFileLoader):
    """Leaves no compiled file behind."""

    def set_data(self, path: str, data: object, *, _mode: int = 0) -> None:
        """Stores nothing."""


class Neighbours:
    """A context in which the modules of one folder can be imported."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mine: dict[str, ModuleType] = {}
        self._hidden: dict[str, ModuleType] = {}
        self._depth = 0

    def names(self) -> list[str]:
        """The modules and packages in the folder."""
        found = {path.stem for path in self._folder.glob("*.py")}
        found |= {path.parent.name for path in self._folder.glob("*/__init__.py")}
        return sorted(found - _NEVER_HIDDEN)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Python's question to an importer: where a module is; None if not here."""
        if name.partition(".")[0] in _NEVER_HIDDEN:
            return None
        places = [str(self._folder)] if path is None else [p for p in path if Path(p).is_relative_to(self._folder)]
        specs = (FileFinder(place, (_Loader, SOURCE_SUFFIXES)).find_spec(name) for place in places)
        return next((spec for spec in specs if spec is not None and spec.loader is not None), None)

    def __enter__(self) -> "Neighbours":
        self._depth += 1
        if self._depth == 1:
            names = {*self.names(), *(name.partition(".")[0] for name in self._mine)}
            self._hidden = _take_out(lambda name, _: name.partition(".")[0] in names)
            sys.modules.update(self._mine)
            sys.meta_path.insert(0, self)  # pyright: ignore[reportArgumentType]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._depth -= 1
        if self._depth == 0:
            sys.meta_path.remove(self)  # pyright: ignore[reportArgumentType]
            self._mine = _take_out(lambda _, module: isinstance(getattr(module, "__loader__", None), _Loader))
            sys.modules.update(self._hidden)

    def during(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, able to import neighbours when it is called."""

        @wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return wrapped


def _take_out(is_chosen: Callable[[str, ModuleType], bool]) -> dict[str, ModuleType]:
    """Removes some modules from `sys.modules` and returns them."""
    chosen = {name: module for name, module in sys.modules.items() if is_chosen(name, module)}
    for name in chosen:
        del sys.modules[name]
    return chosen
