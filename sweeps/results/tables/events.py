"""The rows of events.parquet: what happened to each trial, attempt by attempt, as the records tell it."""

from collections.abc import Iterator
from typing import Any

from sweeps.records.clock import recorded_moment
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.tables.column import About

EVENT_COLUMNS: list[About] = [
    About("leg", "text", "", "name of the leg"),
    About("trial", "text", "", "name of the trial: leg and block"),
    About("block", "int32", "", "pass over all legs, from 1"),
    About("attempt", "int32", "", "attempt that it happened to, from 0; null for the trial as a whole"),
    About("place", "int32", "", "order among the events of the trial, from 0"),
    About("event", "text", "", "what happened, see below"),
    About("utc", "utc", "UTC", "when, by the clock of the host; null if not known"),
    About("step", "int32", "", "step that it concerns: where an attempt began, or the last one that it stored"),
    About("num_workers", "int32", "workers", "ranks of the attempt"),
    About("host", "text", "", "host of the attempt"),
    About("error_type", "text", "", "of an attempt that failed or was interrupted"),
    About("error_message", "text", "", "its message"),
    About("experiment", "text", "", "id of the experiment"),
]

EVENTS = {
    "taken_over": "the trial was copied from another experiment, named in error_message",
    "attempt_started": "a group of workers began",
    "first_step": "its first step ended",
    "last_step": "its last step ended",
    "attempt_completed": "it ended at the last step of the run",
    "attempt_stopped": "it ended as asked",
    "attempt_failed": "its own error ended it",
    "attempt_interrupted": "it was ended from outside",
    "retry_asked": "a person asked for another attempt after this failed one",
    "trial_completed": "the result was written",
}
"""What the column `event` can hold."""


def event_rows(snapshot: Snapshot, trial: TrialSnapshot) -> Iterator[dict[str, Any]]:
    """The events of one trial, in order."""
    whose = {
        "leg": trial.trial.leg.name,
        "trial": trial.trial.name,
        "block": trial.trial.block,
        "experiment": snapshot.manifest.id,
    }
    for place, event in enumerate(_events(trial)):
        yield {**whose, "place": place, **event, "utc": recorded_moment(event["utc"])}


def _events(trial: TrialSnapshot) -> Iterator[dict[str, Any]]:
    if trial.origin is not None:
        yield {"event": "taken_over", "utc": trial.origin.copied_utc, "error_message": trial.origin.experiment}
    for attempt in trial.attempts:
        of = {"attempt": attempt.number, "num_workers": attempt.num_workers, "host": attempt.ran_on}
        span = trial.spans.get(attempt.number)
        last = span[1] if span else None
        yield {**of, "event": "attempt_started", "utc": attempt.started_utc, "step": attempt.first_step}
        if attempt.first_step_utc is not None:
            yield {**of, "event": "first_step", "utc": attempt.first_step_utc, "step": attempt.first_step}
        if attempt.last_step_utc is not None:
            yield {**of, "event": "last_step", "utc": attempt.last_step_utc, "step": last}
        if attempt.end is not None:
            error = attempt.error
            told = {"error_type": error.type, "error_message": error.message} if error else {}
            yield {**of, **told, "event": f"attempt_{attempt.end}", "utc": attempt.ended_utc, "step": last}
        if attempt.retry_utc is not None:
            yield {**of, "event": "retry_asked", "utc": attempt.retry_utc}
    if trial.result is not None:
        yield {"event": "trial_completed", "utc": trial.result.ended_utc, "step": trial.result.last_step}
