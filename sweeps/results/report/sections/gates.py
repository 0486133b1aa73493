"""The gates as the sweep declares them, each with what was measured and how far that may be believed."""

from sweeps.results.decisions.gates import gate_lines
from sweeps.results.measures.compare import has_fallen_back
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import (
    Block,
    Cell,
    Code,
    Column,
    Paragraph,
    Table,
    code_cell,
    number_cell,
    text_cell,
)
from sweeps.results.report.sections.across import Snapshots, across

_GATE_DIGITS = {"tok_per_sec": 0, "peak_mib": 0, "dt_ms": 1, "loss": 4}


def gate_blocks(snapshots: Snapshots) -> list[Block]:
    """The gate table and how far it may be believed, or that there are no gates."""
    if not any(s.plan.gates for s in snapshots):
        return [Paragraph(words=("The sweep declares no gates.",))]
    note = (
        "Values are the candidate's and the reference's plain means over the blocks; the ratio is a geometric mean "
        "over the blocks. It has no interval yet, so every verdict is ADVISORY: a ratio within its bound is no proof, "
        "one outside may be chance. INVALID: one of the two legs went on uncompiled, because compiling failed."
    )
    return [across(snapshots, gate_table), Paragraph(words=(note,), tone="note")]


def gate_table(snapshot: Snapshot) -> Table:
    """The gates as declared, with value, bound and what may be said: advice, or nothing of a leg that fell back."""
    rows: list[list[Cell]] = []
    candidate = "" if snapshot.plan.candidate is None else snapshot.plan.candidate.name
    for line in gate_lines(snapshot):
        wants = "improves" if line.gate.at_most is None else f"at most x {line.gate.at_most:g}"
        digits = _GATE_DIGITS.get(line.gate.metric, 2)
        lies = {None: "not measured", True: "within the bound", False: "outside the bound"}[line.is_within]
        rows.append(
            [
                Cell(words=(Code(line.gate.metric), f" {wants}")),
                code_cell(line.reference),
                number_cell(line.value, digits),
                number_cell(line.reference_value, digits),
                number_cell(line.ratio, 4),
                Cell(words=(f"{line.sense} {line.bound:.4f}",), order=line.bound),
                text_cell(lies, {None: "", True: "within", False: "outside"}[line.is_within]),
                text_cell("INVALID" if has_fallen_back(snapshot, candidate, line.reference) else "ADVISORY"),
            ]
        )
    columns = [
        Column(heading="gate"),
        Column(heading="against"),
        Column(heading="candidate's", kind="number"),
        Column(heading="reference's", kind="number"),
        Column(heading="ratio", kind="number"),
        Column(heading="bound", kind="number"),
        Column(heading="plain ratio"),
        Column(heading="verdict"),
    ]
    return Table(caption="Gates of the sweep", columns=columns, rows=rows)
