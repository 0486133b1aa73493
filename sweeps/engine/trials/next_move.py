"""What to do next with a trial, decided from what is in storage and nothing else.

An interrupted attempt (preempted, killed, a node lost, storage away) is continued, up to a cap in one launch. A failed
one (the leg's own error: out of memory, NaN, an assertion) is not: it would fail again. Only a person may ask for one
more attempt. A completed one is never touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from sweeps.records.documents import AttemptEnd


class Move(Enum):
    """The next act on a trial."""

    NOTHING = "the result is there"
    LEAVE = "a newer launch has begun an attempt: this one was taken for dead"
    WRITE_RESULT = "all steps are done: compact the rows and write the result"
    START = "no attempt yet: start at step 0"
    CONTINUE = "start another attempt from the last good checkpoint"
    PAUSE = "a stop was asked for: leave it to a later restore"
    GIVE_UP_FAILED = "its own error ended it: report, do not loop"
    GIVE_UP_INTERRUPTED = "interrupted too often in this launch: leave it to a later restore"


@dataclass(frozen=True)
class Policy:
    """How often one launch resumes one trial."""

    max_interruptions: int = 3


@dataclass(frozen=True, kw_only=True)
class StoredTrial:
    """What storage says about a trial. An attempt without an end was cut off."""

    has_result: bool
    has_newer_owner: bool = False  # a later launch than this one has begun the last attempt
    stop_requested: bool
    ends: Sequence[AttemptEnd | None]  # of all attempts, oldest first
    num_earlier: int  # how many of them belong to earlier launches
    retry_asked: bool = False  # a user wants another attempt after the last one, which failed
    again_asked: bool = False  # the last one completed on a node that its block has left: from the start again


def next_move(trial: StoredTrial, policy: Policy) -> Move:
    """The truth table of a trial's life."""
    if trial.has_result:
        return Move.NOTHING
    if trial.has_newer_owner:
        return Move.LEAVE
    last = trial.ends[-1] if trial.ends else None
    if last == "completed" and not trial.again_asked:
        return Move.WRITE_RESULT
    if last == "failed" and not trial.retry_asked:
        return Move.GIVE_UP_FAILED
    if trial.stop_requested:
        return Move.PAUSE
    if not trial.ends:
        return Move.START
    num_interrupted = sum(end in (None, "interrupted") for end in trial.ends[trial.num_earlier :])
    return Move.GIVE_UP_INTERRUPTED if num_interrupted >= policy.max_interruptions else Move.CONTINUE
