"""What a person sees while an experiment runs: on a terminal a table that is painted over, elsewhere a line per event.

The table reads storage, so it shows the same no matter which process runs the experiment. While this process runs it
the main thread is the engine's, so the table is painted from a thread of its own; what it cannot show scrolls by above
it.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from cli.console import has_colour, note, out, warn
from cli.screen import Screen
from sweeps.spec.words import counted, fixed, grouped

if TYPE_CHECKING:
    from sweeps.engine.watching.events import Event
    from sweeps.records.experiment import Experiment
    from sweeps.results.measures.progress import ExperimentProgress, LegProgress

LOCAL_INTERVAL_S, REMOTE_INTERVAL_S = 1.0, 5.0
PLAIN_STEP_INTERVAL_S = 10.0


class LiveTable:
    """An experiment's table at the bottom of a terminal."""

    def __init__(self, experiment: "Experiment", screen: Screen) -> None:
        from sweeps.results.measures.progress import ProgressReader

        self.screen = screen
        self._reader = ProgressReader(experiment)
        self._lines: list[str] = []

    def draw(self) -> "ExperimentProgress | None":
        """Paints the table as storage has it now; while storage cannot be read the old one stays."""
        from cli.progress_table import Look, table_lines
        from sweeps.spec.errors import SweepToolError

        try:
            progress = self._reader.read()
        except (OSError, SweepToolError):
            return None
        columns, lines = self.screen.size()
        painting = table_lines(progress, Look(columns, lines, has_unicode=self.screen.has_unicode))
        if painting != self._lines:
            self._lines = painting
            self.screen.paint(painting)
        return progress


@contextlib.contextmanager
def telling(experiment: "Experiment", *, plainly: bool = False) -> "Generator[Callable[[Event], None]]":
    """Gives the function that tells an event of a run in this process; on stderr. `plainly`: never as a table."""
    if plainly or not has_colour(sys.stderr):
        yield _tell_plainly
        return
    teller = _LiveTeller(experiment, Screen(sys.stderr))
    try:
        yield teller.tell
    finally:
        teller.close()


def watch(experiment: "Experiment") -> None:
    """Shows an experiment that runs anywhere until it no longer runs; on stdout."""
    if has_colour(sys.stdout):
        _watch_live(experiment)
    else:
        _watch_plainly(experiment)


def changes(before: "ExperimentProgress | None", after: "ExperimentProgress") -> list[str]:
    """A line for each leg that is not as it was, and one for the experiment."""
    known = {leg.name: leg for leg in before.legs} if before else {}
    lines = [
        f"[{place}/{len(after.legs)}] {leg.name}: {_in_words(leg)}"
        for place, leg in enumerate(after.legs, start=1)
        if leg.state != "pending" and leg != known.get(leg.name)
    ]
    summary = f"{after.id}: {after.state}, {after.num_completed} of {counted(len(after.legs), 'trial')} completed"
    return [*lines, summary] if before is None or before.state != after.state else lines


def _in_words(leg: "LegProgress") -> str:
    if leg.is_starting or leg.loss is None or leg.tok_per_sec is None:
        return "starting" if leg.state == "running" else leg.state
    loss, tok_per_sec = fixed(leg.loss, 4), grouped(leg.tok_per_sec, 0)
    return f"{leg.shown_state}, step {leg.num_done}/{leg.num_steps}, loss {loss}, {tok_per_sec} tok/s"


def _tell_plainly(event: "Event") -> None:
    from sweeps.engine.watching.events import Warned

    warn(event.message) if isinstance(event, Warned) else note(str(event))


class _LiveTeller:
    """The table of a run in this process. It appears with the first leg and stays when the last one has ended."""

    def __init__(self, experiment: "Experiment", screen: Screen) -> None:
        self._screen = screen
        self._table = LiveTable(experiment, screen)
        self._interval_s = _interval_s(experiment)
        self._ended = threading.Event()
        self._painter = threading.Thread(target=self._paint, name="live-table", daemon=True)
        screen.paint([f"{experiment.id}: getting ready"[: screen.size()[0] - 1]])

    def tell(self, event: "Event") -> None:
        """Says what the table does not show."""
        from sweeps.engine.watching import events

        shown = (events.LegStarted, events.LegTraining, events.LegAdvanced, events.LegCheckpointed, events.LegCompleted)
        if isinstance(event, events.ExperimentEnded):
            self.close()
            note(str(event))
        elif not isinstance(event, shown):
            self._screen.say(str(event))
        if isinstance(event, events.ExperimentStarted) and self._painter.ident is None:  # once more after each growth
            self._painter.start()

    def close(self) -> None:
        """Paints once more, as it ended. The terminal is the caller's again."""
        self._ended.set()
        if self._painter.ident is None:
            self._screen.paint([])
        else:
            self._painter.join()
            self._table.draw()
        self._screen.close()

    def _paint(self) -> None:
        while not self._ended.is_set():
            self._table.draw()
            self._ended.wait(self._interval_s)


def _watch_live(experiment: "Experiment") -> None:
    table = LiveTable(experiment, Screen(sys.stdout))
    try:
        while (progress := table.draw()) is None or progress.state == "running":
            time.sleep(_interval_s(experiment))
    finally:
        table.screen.close()


def _watch_plainly(experiment: "Experiment") -> None:
    """A running leg's steps are printed now and then, everything else at once."""
    from sweeps.results.measures.progress import ProgressReader

    reader = ProgressReader(experiment)
    told: ExperimentProgress | None = None
    told_at = 0.0
    while True:
        progress, now = reader.read(), time.monotonic()
        is_due = now - told_at >= PLAIN_STEP_INTERVAL_S
        if told is None or is_due or _states(told) != _states(progress):
            for line in changes(told, progress):
                out(line)
            sys.stdout.flush()
            told, told_at = progress, now
        if progress.state != "running":
            return
        time.sleep(_interval_s(experiment))


def _states(progress: "ExperimentProgress") -> tuple[object, ...]:
    return progress.state, *((leg.state, leg.is_starting) for leg in progress.legs)


def _interval_s(experiment: "Experiment") -> float:
    return LOCAL_INTERVAL_S if experiment.store.is_local else REMOTE_INTERVAL_S
