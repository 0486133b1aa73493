"""Ends a leg that has used up its time: first by a request that its first rank sees, then from outside.

The time of a leg is that of all its attempts since the last one that failed, so a leg that is interrupted again and
again cannot run for ever, and a retry has the whole time again. Every attempt's time is measured by the driver's
monotonic clock, which a change of the wall clock does not touch.
"""

import contextlib
import threading
from collections.abc import Generator, Sequence

from sweeps.engine.processes.beside import beside
from sweeps.engine.processes.storage_retry import with_retries
from sweeps.engine.ranks.leg_timeout import timeout_error
from sweeps.engine.ranks.stacks import places
from sweeps.engine.watching.hang_watch import end_ranks
from sweeps.records.documents import AttemptRecord
from sweeps.records.experiment import Experiment

GRACE_S = 60.0  # for the step to end and a checkpoint to be written


def seconds_left(limit_s: float, earlier: Sequence[AttemptRecord]) -> float:
    """What the attempts before this one, oldest first, have left of a leg's time. Cut-off attempts count nothing."""
    used_s = 0.0
    for attempt in earlier:
        used_s = 0.0 if attempt.end == "failed" else used_s + (attempt.run_s or 0.0)
    return max(0.0, limit_s - used_s)


@contextlib.contextmanager
def limiting(experiment: Experiment, trial: str, attempt: int) -> Generator[None]:
    """Ends the attempt once its leg's time is up, if the plan limits it, while the caller waits for its end."""
    limit_s = experiment.plan.leg_timeout_s
    if limit_s is None:
        yield
        return
    earlier = [a for a in with_retries(experiment.trial(trial).attempts) if a.number < attempt]
    left_s = seconds_left(limit_s, earlier)
    with beside(lambda over: _wait(experiment, trial, attempt, limit_s, left_s, over), name="leg timer"):
        yield


def _wait(
    experiment: Experiment, trial: str, attempt: int, limit_s: float, left_s: float, over: threading.Event
) -> None:
    record = experiment.trial(trial)
    if over.wait(left_s):
        return
    with contextlib.suppress(OSError):  # then it ends from outside
        with_retries(lambda: record.end_in_time(attempt))
    if over.wait(GRACE_S):
        return
    with contextlib.suppress(OSError):
        with_retries(lambda: _store_timeout(experiment, trial, attempt, limit_s))
        end_ranks(places(experiment.store, trial, attempt))


def _store_timeout(experiment: Experiment, trial: str, attempt: int, limit_s: float) -> None:
    record = experiment.trial(trial)
    if record.attempt(attempt).end is None:
        error = timeout_error(limit_s, f"killed {GRACE_S:.0f} s later in the middle of a step")
        record.note(attempt, "timer", end="failed", error=error)
