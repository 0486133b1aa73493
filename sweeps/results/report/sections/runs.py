"""The run summary: every trial under the names that people know from training logs."""

from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import Cell, Code, Column, Table, Words, number_cell, text_cell
from sweeps.results.status import RUN_COLUMNS, trial_status


def run_table(snapshot: Snapshot) -> Table:
    """The run summary: every trial under the names that people know."""
    text_columns = ("run", "status")
    rows: list[list[Cell]] = []
    for trial in snapshot.trials:
        values = vars(trial_status(trial, snapshot.plan.window_steps))
        numbers = [number_cell(values[n], digits) for n, (h, digits) in RUN_COLUMNS.items() if h not in text_columns]
        name: Words = (Code(trial.run), *((" (fell back to no compilation)",) if trial.fell_back else ()))
        rows.append([Cell(words=name), text_cell(trial.state, trial.state), *numbers])
    return Table(
        caption="Run summary, one line per trial",
        columns=[
            Column(heading=heading, kind="text" if heading in text_columns else "number")
            for heading, _ in RUN_COLUMNS.values()
        ],
        rows=rows,
    )
