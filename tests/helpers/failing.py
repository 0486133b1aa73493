"""A trial whose attempt has failed."""

from dataclasses import replace
from typing import Any

from sweeps.records.documents import AttemptError
from sweeps.records.trial import TrialRecord


def fail_attempt(trial: TrialRecord, type: str, message: str, **changes: Any) -> None:
    """Starts an attempt and ends it with this error; `changes` are further ones of its record."""
    error = AttemptError(type=type, message=message, traceback="")
    trial.update_attempt(replace(trial.start_attempt(num_workers=2), end="failed", error=error, **changes))
