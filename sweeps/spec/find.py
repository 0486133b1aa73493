"""Loads a sweep file: runs it and takes its one `SWEEP`.

A file is run by path, without being imported as a module of a package and without leaving a cache next to it; modules
next to it can be imported (`neighbours`). What it prints goes to stderr, because stdout is for data. Whatever is wrong
with it becomes one SweepError that names the file and the line.
"""

import contextlib
import re
import sys
import traceback
import types
from dataclasses import fields, replace
from pathlib import Path

from nanochat.config import ConfigError
from sweeps.spec.errors import SweepError
from sweeps.spec.names import nearest
from sweeps.spec.neighbours import Neighbours
from sweeps.spec.parts import Axis, Control, Gate, TailWindow
from sweeps.spec.sweep import Sweep

MAX_FILE_MB = 1.0
_PARTS = (Sweep, Axis, Control, Gate, TailWindow)
BUILT_IN = Path(__file__).resolve().parent.parent


def built_in_sweeps() -> list[str]:
    """The names of the sweeps that come with the tool."""
    return sorted(path.stem for path in BUILT_IN.glob("*.py") if path.stem != "__init__")


def load_sweep(path_or_name: str) -> Sweep:
    """The `SWEEP` of a file, or of a sweep that comes with the tool by its bare name."""
    path = _find(path_or_name)
    neighbours = Neighbours(path.resolve().parent)
    module = types.ModuleType(f"sweep_file_{path.stem}")
    module.__file__ = str(path)
    _run(path, module, neighbours)
    sweep = getattr(module, "SWEEP", None)
    if sweep is None:
        hint = nearest("SWEEP", vars(module))
        raise SweepError(f"{path}: the file defines no SWEEP{hint}")
    if not isinstance(sweep, Sweep):
        raise SweepError(f"{path}: SWEEP must be a sweeps.spec.Sweep, it is a {type(sweep).__name__}")
    first_paragraph = (module.__doc__ or "").strip().split("\n\n")[0]
    leg_name = None if sweep.leg_name is None else neighbours.during(sweep.leg_name)  # it runs again for each preset
    return replace(sweep, question=sweep.question or " ".join(first_paragraph.split()), leg_name=leg_name)


def _find(path_or_name: str) -> Path:
    path = Path(path_or_name)
    if path.is_file():
        return path
    names = built_in_sweeps()
    if path_or_name in names:
        return BUILT_IN / f"{path_or_name}.py"
    seen = "a folder" if path.is_dir() else "no such file"
    known = f"{nearest(path.stem, names)}; built in: {', '.join(names)}"
    raise SweepError(f"no sweep at {path_or_name!r} ({seen}){known}")


def _run(path: Path, module: types.ModuleType, neighbours: Neighbours) -> None:
    size_mb = path.stat().st_size / 1e6
    if size_mb > MAX_FILE_MB:
        raise SweepError(f"{path}: the file is {size_mb:.1f} MB large; a sweep is a page of Python that defines SWEEP")
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise SweepError(f"{path}:{error.lineno or 1}: syntax error: {error.msg}") from None
    except ValueError as error:  # a zero byte, before Python 3.11.4
        raise SweepError(f"{path}:1: syntax error: {error}") from None
    except OSError as error:
        raise SweepError(f"{path}: cannot be read: {error}") from None
    sys.modules[module.__name__] = module
    try:
        with contextlib.redirect_stdout(sys.stderr), neighbours:
            exec(code, module.__dict__)
    except (SweepError, ConfigError) as error:
        raise SweepError(f"{path}:{_line(path, error)}: {error}{_place(path, error)}") from None
    except (Exception, SystemExit) as error:
        hint = _place(path, error) or _other_name(error, [name for name in neighbours.names() if name != path.stem])
        raise SweepError(f"{path}:{_line(path, error)}: {type(error).__name__}: {error}{hint}") from error
    finally:
        del sys.modules[module.__name__]


def _line(path: Path, error: BaseException) -> int:
    """The last line of the sweep file on the way to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno for f in reversed(frames) if f.filename == str(path) and f.lineno), 1)


def _place(path: Path, error: BaseException) -> str:
    """Where in a neighbour of the sweep file an error arose; nothing if it arose elsewhere."""
    beside = [f for f in traceback.extract_tb(error.__traceback__) if path.resolve().parent in Path(f.filename).parents]
    if not beside or Path(beside[-1].filename) in (path, path.resolve()):
        return ""
    return f" ({Path(beside[-1].filename).name}:{beside[-1].lineno})"


def _other_name(error: BaseException, neighbours: list[str]) -> str:
    """A hint for a module that is not there, or for a part of a sweep that takes no such argument."""
    if isinstance(error, ModuleNotFoundError):
        return nearest(error.name or "", neighbours)
    found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    known = [f.name for part in _PARTS if found and part.__name__ == found[1] for f in fields(part) if f.init]
    return nearest(found[2], known) if found else ""
