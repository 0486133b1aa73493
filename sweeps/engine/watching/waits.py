"""Whatever waits says for what: after 10 seconds, after a minute, then every five minutes.

A wait without a message looks like a hang. A leg waits for a driver, for CPUs or GPUs, for its ranks to start, for
its first step; the launcher waits for Ray and for nodes to answer.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator
from typing import Literal

from sweeps.engine.processes.beside import beside
from sweeps.engine.processes.output import Speaker
from sweeps.engine.watching.events import Event, Waiting

FIRST_S, SECOND_S, EVERY_S = 10.0, 60.0, 300.0


def report_times() -> Iterator[float]:
    """The seconds after which a wait is reported, without an end."""
    yield from (FIRST_S, SECOND_S)
    later = 0.0
    while True:
        later += EVERY_S
        yield later


def what_for(phase: Literal["ranks", "preparation", "first step"] | None, unmet: str | None) -> str:
    """What a leg waits for, in words: by its next phase, None if it has no driver yet, and what Ray cannot reserve."""
    if phase is None:
        return f"a place for the next leg's driver: {unmet}" if unmet else "the next leg's driver to start it"
    if phase == "ranks":
        return f"{unmet}, for its ranks" if unmet else "its ranks to start"
    return {"preparation": "its data, model and checkpoint", "first step": "its first step"}[phase]


class WaitClock:
    """How long one thing has been waited for, and whether it is time to say so. Time comes from outside."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._since = 0.0
        self._times = report_times()
        self._next = next(self._times)

    def due(self, key: Hashable, now: float) -> float | None:
        """The seconds waited so far if a report is due. `key` identifies what is waited for; None: nothing is."""
        if key != self._key:
            self._key, self._since, self._times = key, now, report_times()
            self._next = next(self._times)
        waited = now - self._since
        if key is None or waited < self._next:
            return None
        while self._next <= waited:
            self._next = next(self._times)
        return waited


@contextlib.contextmanager
def reporting(what: str, on_event: Callable[[Event], None]) -> Generator[None]:
    """Reports that this process waits for something while it is inside, from its own thread."""

    def report(over: threading.Event) -> None:
        begin = time.monotonic()
        for seconds in report_times():
            if over.wait(seconds - (time.monotonic() - begin)):
                return
            on_event(Waiting(what=what, seconds=seconds))

    with beside(report, name="waits", kind=Speaker):
        yield
