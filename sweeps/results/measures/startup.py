"""The time between two legs: from the end of one's last step to the start of the next one's first.

A GPU does nothing meanwhile, so it is what a sweep of many short legs costs beyond its steps. It is known only where
the same driver process ran both without a break: across a restore it would measure how long nothing ran.
"""

from sweeps.records.clock import recorded_moment
from sweeps.records.documents import AttemptRecord
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot


def between_legs_s(snapshot: Snapshot, trial: TrialSnapshot) -> float | None:
    """Seconds from the last step of the leg that the same driver ran before to the start of this one's first step."""
    if not trial.attempts or not trial.steps:
        return None
    attempt = trial.attempts[0]
    took_ms = trial.summary.first_step_ms
    if attempt.first_step != 0 or trial.summary.first_attempt != attempt.number or took_ms is None:
        return None
    first = recorded_moment(attempt.first_step_utc)
    if first is None:
        return None
    begun = first.timestamp() - took_ms / 1e3
    before = _leg_before(snapshot, trial)
    end = recorded_moment(before.last_step_utc) if before else None
    return None if end is None or end.timestamp() > begun else begun - end.timestamp()


def _leg_before(snapshot: Snapshot, trial: TrialSnapshot) -> AttemptRecord | None:
    """The last attempt of the trial that the same driver ran before this one: it runs trials in the plan's order."""
    earlier = snapshot.trials[: next(i for i, other in enumerate(snapshot.trials) if other is trial)]
    attempts = [other.attempts[-1] for other in earlier if other.attempts]
    return next((a for a in reversed(attempts) if _same_driver(a, trial.attempts[0])), None)


def _same_driver(one: AttemptRecord, other: AttemptRecord) -> bool:
    """Of blocks side by side a driver can change from one to the other: then its node is another one."""
    return (one.host, one.pid, one.node_id) == (other.host, other.pid, other.node_id)
