"""What the few steps of every leg before the launch have shown."""

from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import Column, Section, Table, code_cell, number_cell, text_cell
from sweeps.results.report.sections.across import Snapshots, across


def preflight_sections(snapshots: Snapshots) -> list[Section]:
    """The table; nothing without a preflight."""
    if not any(s.preflight for s in snapshots):
        return []
    return [Section(key="preflight", title="Preflight", blocks=[across(snapshots, preflight_table)])]


def preflight_table(snapshot: Snapshot) -> Table:
    """What the few steps before the launch have shown of each leg."""
    rows = [
        [
            code_cell(r.leg),
            text_cell(r.state, r.state),
            number_cell(r.first_step_s, 1),
            number_cell(r.peak_mib, 0),
            text_cell(r.error or ("could not be compiled, runs uncompiled" if r.fell_back else "-")),
        ]
        for r in snapshot.preflight
    ]
    columns = [
        Column(heading="leg"),
        Column(heading="status"),
        Column(heading="first step s", kind="number"),
        Column(heading="peak MiB", kind="number"),
        Column(heading="error"),
    ]
    return Table(caption="Three steps of each leg before the launch", columns=columns, rows=rows)
