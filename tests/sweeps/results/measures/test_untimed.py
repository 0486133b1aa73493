"""Saves leave a leg its timing; where a timing is missing anyway, the reason is given."""

from collections.abc import Callable

import pytest

from sweeps.capacity import SWEEP as CAPACITY
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.records.steps import Steps
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.measures.trial import counts_for_timing, timing_window, why_untimed
from sweeps.results.measures.untimed import untimed_trials
from sweeps.results.report.build import build_report, markdown_files
from sweeps.smoke import SWEEP as SMOKE
from sweeps.spec import Sweep
from sweeps.spec.preset import apply_preset, apply_settings

Make = Callable[..., Experiment]
MakeRow = Callable[..., StepRow]
Complete = Callable[..., None]


def with_saves(make_row: MakeRow, num_steps: int, every: int, num_beside: int) -> list[StepRow]:
    """A run's rows with a save every so many steps, each during the next `num_beside` steps."""

    def flags(step: int) -> tuple[str, ...]:
        warmup = ("warmup",) if step < 20 else ()
        return ("checkpoint", *warmup) if step >= every and step % every < num_beside else warmup

    return [make_row(step, flags=flags(step)) for step in range(num_steps)]


@pytest.mark.parametrize(
    ("sweep", "num_beside"),
    [
        (CAPACITY, 20),
        (apply_settings(CAPACITY, num_steps=80, num_workers=1), 48),
        (apply_settings(CAPACITY, num_steps=200), 48),
        (apply_settings(CAPACITY, num_steps=2000), 48),
        (apply_preset(CAPACITY, "tiny"), 10),
        (SMOKE, 10),
    ],
)
def test_saves_that_take_many_steps_leave_a_leg_its_timing_at_the_end_of_the_run(
    sweep: Sweep, num_beside: int, make_row: MakeRow
) -> None:
    num_steps, window = sweep.base.schedule.num_steps, sweep.window.num_steps
    assert num_steps is not None
    assert sweep.checkpoint_every is not None
    rows = with_saves(make_row, num_steps, sweep.checkpoint_every, num_beside)
    assert any("checkpoint" in row.flags for row in rows) == (sweep.checkpoint_every < num_steps)
    steps = Steps.of(rows)
    assert timing_window(steps, counts_for_timing(steps), window).ints("step") == list(range(num_steps))[-window:]


def test_a_leg_without_timing_says_how_many_of_its_steps_were_beside_a_save(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1", with_saves(make_row, 40, every=10, num_beside=8))
    snapshot = read_snapshot(experiment)
    why = "4 of 40 steps count, the window has 10; 24 steps were beside a save"
    assert [(trial.run, told) for trial, told in untimed_trials(snapshot)] == [("static", why)]
    text = markdown_files(build_report([snapshot]), "report.md")["report.md"]
    assert f"- `static` has no timing: {why}" in text.split("## Legs against the baseline")[1].split("## ")[0]


def test_a_leg_without_timing_may_be_short_or_resumed_late(make_row: MakeRow) -> None:
    short = Steps.of(make_row(s) for s in range(25))
    assert why_untimed(short, counts_for_timing(short), 10) == "5 of 25 steps count, the window has 10"
    resumed = Steps.of(make_row(s, attempt=int(s >= 35)) for s in range(40))
    assert (
        why_untimed(resumed, counts_for_timing(resumed), 10)
        == "the last 10 steps that count are not all of one attempt"
    )


def test_a_time_that_is_no_positive_number_is_the_reason(make_row: MakeRow) -> None:
    steps = Steps.of(make_row(s, dt_ms=0.0 if s == 35 else 100.0) for s in range(40))
    assert why_untimed(steps, counts_for_timing(steps), 10) == (
        "among the last 10 steps that count is one whose time is not a positive number"
    )


def test_a_leg_with_timing_or_without_steps_lacks_no_reason(make_experiment: Make, complete: Complete) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1")
    assert untimed_trials(read_snapshot(experiment)) == []
