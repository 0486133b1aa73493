"""How long reading may take, and where an error came from."""

import contextlib
import signal
from collections.abc import Generator
from pathlib import Path

LIMIT_S = 60.0


class TooSlow(BaseException):
    """Reading took longer than a person waits."""


@contextlib.contextmanager
def time_limit() -> Generator[None]:
    """Raises TooSlow in the main thread."""
    signal.signal(signal.SIGALRM, _too_slow)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_slow(*_: object) -> None:
    raise TooSlow


def place_of(error: BaseException) -> str:
    """The last few lines of code that an error went through."""
    trace, places = error.__traceback__, list[str]()
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " ".join(places[-5:])
