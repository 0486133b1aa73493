"""The report says where a leg's steps spend their time."""

from collections.abc import Callable

from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.report.build import build_report, markdown_files
from sweeps.results.report.sections.phases import phase_sections, phase_table

Make = Callable[..., Experiment]
MakeRow = Callable[..., StepRow]
Complete = Callable[..., None]


def _measured(make_row: MakeRow, step: int, backward_ms: float) -> StepRow:
    """A step of 100 ms on every rank; the save before step 25 took 1.5 s."""
    return make_row(
        step,
        dt_median_ms=100.0,
        data_median_ms=1.0,
        forward_median_ms=30.0,
        backward_median_ms=backward_ms,
        optimizer_median_ms=7.0,
        communication_median_ms=2.0,
        checkpoint_ms=1500.0 if step == 25 else 0.0,
    )


def test_a_legs_phases_are_medians_over_the_counted_steps_of_the_window(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    slow_last = [_measured(make_row, s, 60.0 if s < 39 else 600.0) for s in range(40)]
    complete(experiment, "static-b1", [_measured(make_row, 0, 9.0), *slow_last[1:]])
    snapshot = read_snapshot(experiment)
    (row,) = phase_table(snapshot).rows
    assert [cell.order for cell in row[1:]] == [100, 1, 30, 60, 7, 2, 1.5]
    text = markdown_files(build_report([snapshot]), "report.md")["report.md"]
    assert "## Where a step's time goes" in text
    assert "| `static` | 100.0 | 1.0 | 30.0 | 60.0 | 7.0 | 2.0 | 1.5 |" in text


def test_rows_without_phases_have_no_such_section(make_experiment: Make, complete: Complete) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1")
    assert phase_sections([read_snapshot(experiment)]) == []


def test_rows_that_do_not_tell_of_saves_leave_that_open(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1", [make_row(s, forward_median_ms=30.0) for s in range(40)])
    complete(experiment, "bf16-b1", [make_row(s, trial="bf16-b1", checkpoint_ms=0.0) for s in range(40)])
    held_up = [row[-1].words for row in phase_table(read_snapshot(experiment)).rows]
    assert held_up == [("-",), ("0.0",)]
