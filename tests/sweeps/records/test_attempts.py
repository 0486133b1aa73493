"""Several writers of one attempt: none undoes what another stored, whatever the order in which they come."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.records.attempts import merged
from sweeps.records.documents import AttemptError, AttemptPart, AttemptRecord
from sweeps.records.experiment import Experiment
from sweeps.records.trial import TrialRecord

BROKE = AttemptError(type="ValueError", message="mine", traceback="")
HUNG = AttemptError(type="RankHung", message="rank 1", traceback="")
LATE = AttemptError(type="LegTimeout", message="20 min", traceback="")
OPENED = AttemptRecord(number=0, host="one", pid=7, started_utc="2026-01-01T00:00:00Z", num_workers=2)

NOTES: dict[str, dict[str, Any]] = {
    "rank": {"first_step": 0, "first_step_utc": "2026-01-01T00:00:01Z"},
    "watch": {"error": HUNG},
    "user": {"retry_utc": "2026-01-01T00:01:00Z"},
}


@pytest.fixture
def trial(make_experiment: Callable[..., Experiment]) -> TrialRecord:
    return make_experiment().trial("static-b1")


@pytest.mark.parametrize("order", list(itertools.permutations([*NOTES, "driver"])), ids="-".join)
def test_every_order_of_writers_gives_one_record(trial: TrialRecord, order: tuple[str, ...]) -> None:
    """The driver's own document is written from what it read before the others came."""
    opened = trial.start_attempt(num_workers=2)
    for writer in order:
        if writer == "driver":
            trial.update_attempt(opened)
        else:
            trial.note(0, writer, **NOTES[writer])  # pyright: ignore[reportArgumentType]
    assert trial.attempts() == [
        dataclasses.replace(opened, first_step=0, **NOTES["user"], error=HUNG, first_step_utc="2026-01-01T00:00:01Z")
    ]


def test_a_writer_keeps_what_it_noted_before(trial: TrialRecord) -> None:
    trial.start_attempt(num_workers=2)
    trial.note(0, "rank", first_step=3)
    trial.note(0, "rank", last_step_utc="2026-01-01T00:00:09Z")
    seen = trial.attempt(0)
    assert (seen.first_step, seen.last_step_utc) == (3, "2026-01-01T00:00:09Z")


def test_ranks_that_fail_at_once_store_into_files_of_their_own(trial: TrialRecord, tmp_path: Path) -> None:
    """Which of two is shown does not depend on who came last."""
    trial.start_attempt(num_workers=2)
    trial.note(0, "error", error=BROKE)
    folder = tmp_path / "storage" / "20260101_120000_toy" / "trials" / "static-b1" / "attempts"
    (own,) = [path for path in folder.iterdir() if "error" in path.name]
    text = own.read_text()
    (folder / "000.error-ffffffff.json").write_text(text.replace("mine", "another rank's"))
    assert trial.attempt(0).error == BROKE
    own.rename(folder / "000.error-00000000.json")
    assert trial.attempt(0).error == BROKE


def test_parts_belong_to_their_attempt_and_are_no_attempts(trial: TrialRecord) -> None:
    for _ in range(2):
        trial.start_attempt(num_workers=2)
    trial.note(0, "timer", end="failed", error=LATE)
    assert [(attempt.number, attempt.end) for attempt in trial.attempts()] == [(0, "failed"), (1, None)]
    assert trial.start_attempt(num_workers=2).number == 2


@pytest.mark.parametrize(
    ("parts", "end", "error"),
    [
        ({}, None, None),
        ({"error": AttemptPart(error=BROKE)}, None, BROKE),
        ({"error": AttemptPart(error=BROKE), "watch": AttemptPart(error=HUNG)}, None, HUNG),
        ({"watch": AttemptPart(error=HUNG), "timer": AttemptPart(end="failed", error=LATE)}, "failed", LATE),
        ({"rank": AttemptPart(end="completed"), "timer": AttemptPart(end="failed", error=LATE)}, "completed", None),
        ({"rank": AttemptPart(end="stopped"), "error": AttemptPart(error=BROKE)}, "stopped", None),
    ],
)
def test_an_end_and_its_error_come_from_one_writer(
    parts: dict[str, AttemptPart], end: str | None, error: AttemptError | None
) -> None:
    found = merged(OPENED, parts)
    assert (found.end, found.error) == (end, error)


def test_a_closed_attempt_is_what_its_driver_says(trial: TrialRecord) -> None:
    opened = trial.start_attempt(num_workers=2)
    trial.note(0, "rank", end="stopped")
    trial.update_attempt(dataclasses.replace(opened, end="interrupted", run_s=3.0))
    trial.note(0, "user", again_utc="2026-01-01T00:01:00Z")
    seen = trial.attempt(0)
    assert (seen.end, seen.again_utc) == ("interrupted", "2026-01-01T00:01:00Z")
