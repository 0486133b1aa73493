"""A leg that has used up its time is asked to stop, then ended. On a cluster: tests/integration/test_leg_timeout.py."""

import dataclasses
import threading
import time
from collections.abc import Callable

import pytest

from sweeps.engine.watching import leg_timer
from sweeps.engine.watching.leg_timer import limiting, seconds_left
from sweeps.records.documents import AttemptEnd, AttemptRecord
from sweeps.records.experiment import Experiment

TRIAL = "static-b1"


def ended(*attempts: tuple[AttemptEnd | None, float | None]) -> list[AttemptRecord]:
    return [
        AttemptRecord(number=i, host="h", pid=1, started_utc="", num_workers=1, end=end, run_s=run_s)
        for i, (end, run_s) in enumerate(attempts)
    ]


@pytest.mark.parametrize(
    ("attempts", "left_s"),
    [
        ([], 100),
        ([("interrupted", 30.0)], 70),
        ([("interrupted", 30.0), ("stopped", 50.0)], 20),
        ([("interrupted", 80.0), ("interrupted", 80.0)], 0),
        ([(None, None)], 100),  # cut off: how long it ran is not known
        ([("failed", 100.0)], 100),  # a retry has the whole time again
        ([("interrupted", 90.0), ("failed", 10.0), ("interrupted", 5.0)], 95),
    ],
)
def test_a_legs_time_is_that_of_its_attempts_since_the_last_failure(
    attempts: list[tuple[AttemptEnd | None, float | None]], left_s: float
) -> None:
    assert seconds_left(100.0, ended(*attempts)) == left_s


@pytest.fixture
def experiment(make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Whose legs can take a tenth of a second, and a tenth more to stop."""
    made = make_experiment()
    vars(made)["plan"] = dataclasses.replace(made.plan, leg_timeout_s=0.1)
    made.trial(TRIAL).start_attempt(num_workers=1)
    monkeypatch.setattr(leg_timer, "GRACE_S", 0.1)
    return made


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def test_an_attempt_is_asked_first_and_then_ended_as_failed(experiment: Experiment) -> None:
    record = experiment.trial(TRIAL)
    with limiting(experiment, TRIAL, 0):
        assert eventually(lambda: record.is_time_up(0))
        assert eventually(lambda: record.attempt(0).end is not None)
    attempt = record.attempt(0)
    assert attempt.error is not None
    assert (attempt.end, attempt.error.type) == ("failed", "LegTimeout")
    assert attempt.error.message.startswith("the leg did not end within 0.1 s (leg_timeout) and was killed")


def test_an_attempt_that_stops_when_asked_keeps_its_own_end(experiment: Experiment) -> None:
    record = experiment.trial(TRIAL)
    with limiting(experiment, TRIAL, 0):
        assert eventually(lambda: record.is_time_up(0))
        record.update_attempt(dataclasses.replace(record.attempt(0), end="stopped"))
    assert (record.attempt(0).end, record.attempt(0).error) == ("stopped", None)


def test_a_leg_that_ends_in_time_and_one_without_a_limit_are_not_touched(experiment: Experiment) -> None:
    with limiting(experiment, TRIAL, 0):
        pass
    vars(experiment)["plan"] = dataclasses.replace(experiment.plan, leg_timeout_s=None)
    before = threading.active_count()
    with limiting(experiment, TRIAL, 0):
        assert threading.active_count() == before
    assert not experiment.trial(TRIAL).is_time_up(0)
