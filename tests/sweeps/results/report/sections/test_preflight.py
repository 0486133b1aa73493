"""What the few steps of every leg before the launch have shown, as the report has it."""

from collections.abc import Callable

from sweeps.engine.preflight import create_preflight
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.report.sections.preflight import preflight_table


def test_a_leg_that_ran_uncompiled_says_so_in_the_preflight_table(
    make_experiment: Callable[..., Experiment], make_row: Callable[..., StepRow]
) -> None:
    experiment = make_experiment()
    short = create_preflight(experiment)
    for trial, flags in zip(short.trials(), [("warmup",), ("fallback", "warmup")], strict=False):
        trial.append_rows(0, [make_row(step, flags=flags) for step in range(3)])
    rows = preflight_table(read_snapshot(experiment)).rows
    assert [row[-1].words for row in rows[:3]] == [("-",), ("could not be compiled, runs uncompiled",), ("-",)]
