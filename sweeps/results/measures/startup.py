"""The time between two legs: from the end of one's last step to the start of the next one's first.

A GPU does nothing meanwhile, so it is what a sweep of many short legs costs beyond its steps. It is known only where
the same driver process ran both without a break: across a restore it would measure how long nobody was there.
"""

from sweeps.records.documents import AttemptRecord, parse_utc
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot


def between_legs_s(snapshot: Snapshot, trial: TrialSnapshot) -> float | None:
    """Seconds from the last step of the leg that the same driver ran before to the start of this one's first step."""
    if not trial.attempts or not trial.rows:
        return None
    attempt, first = trial.attempts[0], trial.rows[0]
    if attempt.first_step_utc is None or attempt.first_step != 0 or first.attempt != attempt.number:
        return None
    begun = parse_utc(attempt.first_step_utc).timestamp() - first.dt_ms / 1e3
    others = [other.attempts[-1] for other in snapshot.trials if other is not trial and other.attempts]
    ends = [parse_utc(a.last_step_utc).timestamp() for a in others if a.last_step_utc and _same_driver(a, attempt)]
    before = [end for end in ends if end <= begun]
    return begun - max(before) if before else None


def _same_driver(one: AttemptRecord, other: AttemptRecord) -> bool:
    return (one.host, one.pid) == (other.host, other.pid)
