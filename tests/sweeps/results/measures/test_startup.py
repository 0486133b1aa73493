"""The time between two legs of one driver, small enough to count."""

import dataclasses
from collections.abc import Callable

import pytest

from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.measures.startup import between_legs_s

MakeRow = Callable[..., StepRow]


def run_leg(
    experiment: Experiment, index: int, make_row: MakeRow, first: str | None, last: str | None, pid: int
) -> None:
    record = experiment.trials()[index]
    attempt = record.start_attempt(num_workers=2)
    record.append_rows(0, [make_row(step, attempt=0, dt_ms=2000.0) for step in range(3)])
    times = {"first_step_utc": first, "last_step_utc": last}
    record.update_attempt(dataclasses.replace(attempt, pid=pid, first_step=0, **times))  # pyright: ignore[reportArgumentType]


def gaps(experiment: Experiment, num_legs: int = 2) -> list[float | None]:
    snapshot = read_snapshot(experiment)
    return [between_legs_s(snapshot, trial) for trial in snapshot.trials[:num_legs]]


def test_it_runs_from_the_last_steps_end_to_the_first_steps_start(
    make_experiment: Callable[..., Experiment], make_row: MakeRow
) -> None:
    experiment = make_experiment()
    run_leg(experiment, 0, make_row, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", pid=7)
    run_leg(experiment, 1, make_row, "2026-01-01T00:01:12Z", None, pid=7)
    assert gaps(experiment) == [None, 10.0]  # 12 s less the 2 s of the step


@pytest.mark.parametrize(("first", "pid"), [("2026-01-01T00:01:12Z", 8), (None, 7)])
def test_it_is_unknown_across_drivers_and_before_the_first_step(
    first: str | None, pid: int, make_experiment: Callable[..., Experiment], make_row: MakeRow
) -> None:
    experiment = make_experiment()
    run_leg(experiment, 0, make_row, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", pid=7)
    run_leg(experiment, 1, make_row, first, None, pid=pid)
    assert gaps(experiment) == [None, None]


def test_it_is_unknown_where_the_clock_was_set_back_and_no_other_leg_stands_in(
    make_experiment: Callable[..., Experiment], make_row: MakeRow
) -> None:
    experiment = make_experiment()
    run_leg(experiment, 0, make_row, "2026-01-01T09:00:00Z", "2026-01-01T09:01:00Z", pid=7)
    run_leg(experiment, 1, make_row, "2026-01-01T11:00:00Z", "2026-01-01T11:01:00Z", pid=7)
    run_leg(experiment, 2, make_row, "2026-01-01T10:01:12Z", None, pid=7)
    assert gaps(experiment, 3) == [None, 7138.0, None]
