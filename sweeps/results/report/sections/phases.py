"""Where the time of a step goes, as a table."""

from nanochat.stats import STEP_PHASES
from sweeps.results.measures.phases import knows_phases, leg_phases
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import Cell, Column, Section, Table, code_cell, number_cell
from sweeps.results.report.sections.across import Snapshots, across, noted


def phase_sections(snapshots: Snapshots) -> list[Section]:
    """The table with its note; nothing if no step reports its phases."""
    if not any(map(knows_phases, snapshots)):
        return []
    note = (
        "Medians over the counted steps of the window, all blocks together, of the median rank; dt is that rank's too. "
        "data: waiting for batches. backward: with the communication that runs beside it. communication: waiting for "
        "other ranks with nothing else to do. checkpoint stall: over a whole trial, before each of its steps."
    )
    return noted("phases", "Where a step's time goes", across(snapshots, phase_table), note)


def phase_table(snapshot: Snapshot) -> Table:
    """One line per leg that has begun."""
    rows: list[list[Cell]] = []
    for phases in filter(None, (leg_phases(snapshot, leg.name) for leg in snapshot.plan.legs)):
        medians = [number_cell(value, 1) for value in (phases.dt_ms, *phases.of_phase_ms.values())]
        rows.append([code_cell(phases.leg), *medians, number_cell(phases.checkpoint_stall_s, 1)])
    headings = ("dt ms", *(f"{phase} ms" for phase in STEP_PHASES), "checkpoint stall s")
    columns = [Column(heading="leg"), *(Column(heading=h, kind="number") for h in headings)]
    return Table(caption="Phases of a step of each leg", columns=columns, rows=rows)
