"""How a running experiment is asked to end: the first request politely, the second signal at once.

The first SIGINT or SIGTERM becomes a request file, which rank 0 looks for; the leg then stops after its step, with a
checkpoint. A second signal, or the end of the grace time, gives up on politeness; storage is good enough for a restore
at any moment. Handlers are installed after Ray has started, because starting Ray replaces them.

SIGUSR1, which job managers send ahead of a time limit, and the end of `--stop-after` are requests of the same kind, but
no signal: the exit code is a request's, and a SIGTERM that follows at the limit itself is still a first one.
"""

import contextlib
import signal
import time
from collections.abc import Generator
from types import FrameType

ECHO_S = 1.0  # timeout(1) and job managers signal both a process and its group: that is one request
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopAtOnce(BaseException):
    """Raised out of whatever the main thread does, by the second signal."""


class StopState:
    """Which requests to stop have come, and how long ago the first one did. Time runs from when this is made."""

    def __init__(self, grace_s: float, stop_after_s: float | None = None) -> None:
        self.grace_s, self.stop_after_s = grace_s, stop_after_s
        self.first: signal.Signals | None = None
        self._since = 0.0
        self._made = time.monotonic()
        self._has_notice = False  # SIGUSR1 has come

    def note(self, number: int) -> None:
        """A signal came. Raises StopAtOnce if it was not the first, unless it is the first one's echo."""
        if number == signal.SIGUSR1:
            self._has_notice = True
        elif self.first is None:
            self.first = signal.Signals(number)
            self._since = time.monotonic()
        elif time.monotonic() - self._since >= ECHO_S:
            raise StopAtOnce

    def begin(self) -> None:
        """A stop was asked for by something that is not a signal: the grace time runs from now."""
        self._since = self._since or time.monotonic()

    def wish(self) -> str | None:
        """Why this process wants its run to stop, in words; None while it does not."""
        if self.first is not None:
            return self.first.name
        if self._has_notice:
            return signal.SIGUSR1.name
        if self.stop_after_s is not None and time.monotonic() - self._made >= self.stop_after_s:
            return f"--stop-after {self.stop_after_s:.0f} s"
        return None

    @property
    def was_asked(self) -> bool:
        """Whether a signal, a request or the clock has asked for a stop."""
        return self._since > 0

    def is_grace_over(self) -> bool:
        """Whether a stop was asked for and has taken too long."""
        return self._since > 0 and time.monotonic() - self._since > self.grace_s


@contextlib.contextmanager
def signals_into(state: StopState) -> Generator[None]:
    """Notes SIGINT, SIGTERM and SIGUSR1 in `state`, also where the shell had left them ignored."""

    def handle(number: int, frame: FrameType | None) -> None:
        state.note(number)

    before = {number: signal.signal(number, handle) for number in HANDLED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
