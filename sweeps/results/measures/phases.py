"""Where the time of a leg's steps goes: the phases of a step, as medians over the steps whose time counts.

The numbers are the median rank's, which is no rank in particular: they explain a step's time to a few percent. What is
left of it is the reading of the results. Saves fall into no counted step, so they are summed up over the whole trial.
"""

import statistics
from collections.abc import Sequence

from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.trial import timing_window
from sweeps.results.report.blocks import Cell, Column, Paragraph, Section, Table, code_cell, number_cell
from sweeps.results.report.sections import across

_SHOWN = ("data", "forward", "backward", "optimizer", "communication")


def phase_sections(snapshots: Sequence[Snapshot]) -> list[Section]:
    """The table with its note; nothing where no step has told its phases."""
    if not any(row.forward_median_ms is not None for s in snapshots for t in s.trials for row in t.rows):
        return []
    note = (
        "Medians over the counted steps of the window, all blocks together, of the median rank; dt is that rank's too. "
        "data: waiting for batches. backward: with the communication that runs beside it. communication: waiting for "
        "other ranks with nothing else to do. held up by saves: over a whole trial, before each of its steps."
    )
    return [
        Section(
            key="phases",
            title="Where a step's time goes",
            blocks=[across(snapshots, phase_table), Paragraph(words=(note,), tone="note")],
        )
    ]


def phase_table(snapshot: Snapshot) -> Table:
    """One line per leg that has begun."""
    rows: list[list[Cell]] = []
    for leg in snapshot.plan.legs:
        trials = [t for t in snapshot.of_leg(leg.name) if t.rows]
        window = [row for t in trials for row in timing_window(t.rows, snapshot.plan.window_steps)]
        names = ("dt_median_ms", *(f"{phase}_median_ms" for phase in _SHOWN))
        if trials:
            medians = [number_cell(_median(window, name), 1) for name in names]
            rows.append([code_cell(leg.name), *medians, number_cell(_held_up_s(trials), 1)])
    headings = ("dt ms", *(f"{phase} ms" for phase in _SHOWN), "held up by saves s")
    columns = [Column(heading="leg"), *(Column(heading=h, kind="number") for h in headings)]
    return Table(caption="Phases of a step of each leg", columns=columns, rows=rows)


def _median(rows: Sequence[StepRow], name: str) -> float | None:
    values = [value for row in rows if (value := getattr(row, name)) is not None]
    return statistics.median(values) if values else None


def _held_up_s(trials: Sequence[TrialSnapshot]) -> float | None:
    told = [[row.checkpoint_ms for row in t.rows if row.checkpoint_ms is not None] for t in trials]
    sums_s = [sum(of_trial) / 1e3 for of_trial in told if of_trial]
    return statistics.median(sums_s) if sums_s else None
