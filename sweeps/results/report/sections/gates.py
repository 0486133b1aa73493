"""The gates as the sweep declares them, each with what was measured and how far that may be believed."""

from sweeps.results.decisions.gates import GateLine, gate_lines
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
from sweeps.results.report.sections.ratios import mean_cell
from sweeps.spec.metrics import METRIC


def gate_blocks(snapshots: Snapshots) -> list[Block]:
    """The gate table and how far it may be believed, or that there are no gates."""
    if not any(s.plan.gates for s in snapshots):
        return [Paragraph(words=("The sweep declares no gates.",))]
    note = (
        "Values are the candidate's and the reference's plain means over their blocks, n where that is not the number "
        "of the ratio; the ratio is a geometric mean over the blocks in which both are compared. It has no interval "
        "yet, so every verdict is ADVISORY: a ratio within its bound is no proof, one outside may be chance. INVALID: "
        "one of the two diverged, ran uncompiled because compiling failed, or ran on other hardware."
    )
    return [across(snapshots, gate_table), Paragraph(words=(note,), tone="note")]


def gate_table(snapshot: Snapshot) -> Table:
    """The gates as declared, with value, bound and what may be said."""
    headings = ("candidate's", "reference's", "ratio", "blocks", "bound")
    columns = [
        Column(heading="gate"),
        Column(heading="against"),
        *(Column(heading=heading, kind="number") for heading in headings),
        Column(heading="plain ratio"),
        Column(heading="verdict"),
    ]
    return Table(caption="Gates of the sweep", columns=columns, rows=[_row(line) for line in gate_lines(snapshot)])


def _row(line: GateLine) -> list[Cell]:
    wants = "improves" if line.gate.at_most is None else f"at most x {line.gate.at_most:g}"
    digits, ratio = METRIC[line.gate.metric].digits, line.comparison.ratio
    lies = {None: "not measured", True: "within the bound", False: "outside the bound"}[line.is_within]
    if ratio.value is None and line.comparison.reason is not None:
        lies = f"not compared: {line.comparison.reason}"
    return [
        Cell(words=(Code(line.gate.metric), f" {wants}")),
        code_cell(line.reference),
        mean_cell(line.value, digits, ratio.num_blocks),
        mean_cell(line.reference_value, digits, ratio.num_blocks),
        number_cell(ratio.value, 4),
        number_cell(ratio.num_blocks),
        Cell(words=(f"{line.sense} {line.bound:.4f}",), order=line.bound),
        text_cell(lies, {None: "", True: "within", False: "outside"}[line.is_within]),
        text_cell("INVALID" if line.is_invalid else "ADVISORY"),
    ]
