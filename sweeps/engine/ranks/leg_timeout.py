"""What is stored of a leg that has not ended in its time: it counts as failed, and its checkpoints stay."""

from sweeps.records.documents import AttemptError
from sweeps.spec.duration import in_words

TIMED_OUT = "LegTimeout"


def timeout_error(limit_s: float, how: str) -> AttemptError:
    """The attempt's error; `how` says what became of it, such as "stopped after step 7 with a checkpoint"."""
    message = f"the leg did not end within {in_words(limit_s)} (leg_timeout) and was {how}; a retry resumes it"
    return AttemptError(type=TIMED_OUT, message=message, traceback="")
