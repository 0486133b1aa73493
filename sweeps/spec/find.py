"""Loads a sweep file: runs it and takes its one `SWEEP`.

A file is run by path, without being imported as a module of a package and without leaving a cache beside it. What it
prints goes to stderr, because stdout is for data. Whatever is wrong with it becomes one SweepError that names the file
and the line.
"""

import contextlib
import sys
import traceback
import types
from dataclasses import replace
from pathlib import Path

from nanochat.config import ConfigError
from sweeps.spec.errors import SweepError
from sweeps.spec.names import nearest
from sweeps.spec.sweep import Sweep

MAX_FILE_MB = 1.0
BUILT_IN = Path(__file__).resolve().parent.parent


def built_in_sweeps() -> list[str]:
    """The names of the sweeps that come with the tool."""
    return sorted(path.stem for path in BUILT_IN.glob("*.py") if path.stem != "__init__")


def load_sweep(path_or_name: str) -> Sweep:
    """The `SWEEP` of a file, or of a sweep that comes with the tool by its bare name."""
    path = _find(path_or_name)
    module = types.ModuleType(f"sweep_file_{path.stem}")
    module.__file__ = str(path)
    _run(path, module)
    sweep = getattr(module, "SWEEP", None)
    if sweep is None:
        hint = nearest("SWEEP", vars(module))
        raise SweepError(f"{path}: the file defines no SWEEP{hint}")
    if not isinstance(sweep, Sweep):
        raise SweepError(f"{path}: SWEEP must be a sweeps.spec.Sweep, it is a {type(sweep).__name__}")
    first_paragraph = (module.__doc__ or "").strip().split("\n\n")[0]
    return replace(sweep, question=sweep.question or " ".join(first_paragraph.split()))


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


def _run(path: Path, module: types.ModuleType) -> None:
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
        with contextlib.redirect_stdout(sys.stderr):
            exec(code, module.__dict__)
    except (SweepError, ConfigError) as error:
        raise SweepError(f"{path}:{_line(path, error)}: {error}") from None
    except (Exception, SystemExit) as error:
        raise SweepError(f"{path}:{_line(path, error)}: {type(error).__name__}: {error}") from error
    finally:
        del sys.modules[module.__name__]


def _line(path: Path, error: BaseException) -> int:
    """The last line of the sweep file on the way to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno for f in reversed(frames) if f.filename == str(path) and f.lineno), 1)
