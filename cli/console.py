"""How the program speaks: data on stdout, everything else on stderr, errors as one sentence with an exit code.

Colour only marks the words `error:` and `warning:`, only on a terminal, and never with NO_COLOR.
"""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from typing import TextIO

import typer

from nanochat.config import ConfigError
from sweeps.spec.errors import Interrupted, StorageFailed, SweepToolError, UsageError
from sweeps.spec.visible import visible

_ANOTHER_PLACE = "use another place, or have this one opened to you"
_ROOM = "make room there, then give the command again"
_LATER = "give the command again when that storage answers"
_SHORTER = "choose a shorter name"
_AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH)
_WAYS_OUT = {
    errno.ENAMETOOLONG: _SHORTER,
    errno.EACCES: _ANOTHER_PLACE,
    errno.EPERM: _ANOTHER_PLACE,
    errno.EROFS: _ANOTHER_PLACE,
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    **dict.fromkeys(_AWAY, _LATER),
}
_OF_STORAGE = (errno.ENOSPC, errno.EDQUOT, *_AWAY)
_RED, _YELLOW, _PLAIN = "\x1b[1;31m", "\x1b[33m", "\x1b[0m"


def out(text: str) -> None:
    """Data, on stdout. What would control the terminal becomes an escape, which in JSON means the same."""
    print(visible(text))


def out_coloured(text: str) -> None:
    """As `out`, for text with colours in which everything else has been made visible."""
    print(text)


def note(text: str) -> None:
    """Progress, on stderr, at once."""
    print(visible(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Something to know that stops nothing."""
    _note_marked("warning:", _YELLOW, text)


@contextlib.contextmanager
def waiting_for(what: str) -> Generator[None]:
    """Says after 10 s, and now and then later, what the program waits for while it is inside."""
    from sweeps.engine.watching.waits import reporting

    with reporting(what, lambda event: note(str(event))):
        yield


def error(text: str) -> None:
    """Why the program ends."""
    _note_marked("error:", _RED, text)


def has_colour(stream: TextIO) -> bool:
    """Whether colour is welcome there."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Columns aligned with spaces, two apart; the headers named in `right` are right-aligned."""
    lines = [[visible(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if header in right else cell.ljust(width)
            for cell, width, header in zip(line, widths, headers, strict=True)
        ).rstrip()
        for line in lines
    )


def guarded(action: Callable[[], object]) -> int:
    """Run the program and return its exit code, whatever happens. A returned int is the code, anything else 0."""
    try:
        result = action()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except SweepToolError as problem:
        error(str(problem))
        return problem.exit_code
    except ConfigError as problem:
        error(str(problem))
        return UsageError.exit_code
    except typer.TyperException as problem:
        error(f"{problem.format_message()}\nsee {_help_command(problem)}")
        return UsageError.exit_code
    except BrokenPipeError:
        # The reader left (`| head`); point stdout elsewhere so that the interpreter's last flush finds no closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as problem:
        way_out = _WAYS_OUT.get(problem.errno or 0)
        if problem.filename is None or way_out is None:
            return _internal(problem)
        error(f"{problem.filename}: {(problem.strerror or '').lower()}; {way_out}")
        return StorageFailed.exit_code if problem.errno in _OF_STORAGE else UsageError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return Interrupted.exit_code
    except Exception as problem:
        return _internal(problem)


def _internal(problem: Exception) -> int:
    traceback.print_exception(problem)
    error(f"internal error, {type(problem).__name__}: {problem}")
    return 1


def _note_marked(word: str, colour: str, text: str) -> None:
    marked = f"{colour}{word}{_PLAIN}" if has_colour(sys.stderr) else word
    print(f"{marked} {visible(text)}", file=sys.stderr, flush=True)


def _help_command(problem: typer.TyperException) -> str:
    context = getattr(problem, "ctx", None)
    return f"{context.command_path if context else 'nanochat-sweep'} --help"
