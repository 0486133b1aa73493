"""The gates as the sweep declares them, each with what was measured, its interval and its verdict."""

from sweeps.results.decisions.conclusion import gate_bound, gate_value
from sweeps.results.decisions.judged import judged
from sweeps.results.decisions.judgement import GateVerdict
from sweeps.results.decisions.listing import verdict_text
from sweeps.results.decisions.reach import floor_in_words, floor_of
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import Block, Cell, Code, Column, Paragraph, Table, code_cell, number_cell, text_cell
from sweeps.results.report.sections.across import Snapshots, across

_TONES = {"PASS": "within", "FAIL": "outside", "UNDECIDED": ""}
_NOTE = (
    "Intervals of speed hold together, over all legs and all looks, with 99 %; a look follows every complete block "
    "from the third on. A loss is held to its bound with 5 % for either wrong answer, memory exactly. IMPROVED and "
    "REGRESSED: the interval excludes 0. EQUIVALENT: within \N{PLUS-MINUS SIGN}1 %, with the interval of "
    "95 % that says so. INCONCLUSIVE: more blocks are "
    "needed. ADVISORY: fewer than three blocks, or other code. INVALID: a leg diverged, ran uncompiled or on other "
    "hardware."
)


def gate_blocks(snapshots: Snapshots) -> list[Block]:
    """The verdict per gate, and what the words mean; those on legs are in the table of legs."""
    note = Paragraph(words=(f"{_NOTE} {_floors(snapshots)}",), tone="note")
    if not any(s.plan.gates for s in snapshots):
        return [Paragraph(words=("The sweep declares no gates.",)), note]
    return [across(snapshots, gate_table), note]


def _floors(snapshots: Snapshots) -> str:
    """The smallest spread that the intervals reckon with."""
    words = dict.fromkeys(floor_in_words(floor_of(s.calibration), s.calibration) for s in snapshots)
    return f"The spread counts as at least {'; '.join(words)}."


def gate_table(snapshot: Snapshot) -> Table:
    """The gates as declared, with value, bound and verdict."""
    columns = [
        Column(heading="gate"),
        Column(heading="against"),
        Column(heading="asked"),
        Column(heading="measured", kind="number"),
        Column(heading="blocks", kind="number"),
        Column(heading="verdict"),
    ]
    rows = [_gate_row(verdict) for verdict in judged(snapshot).gates]
    return Table(caption="Gates of the sweep, judged for the candidate", columns=columns, rows=rows)


def _gate_row(verdict: GateVerdict) -> list[Cell]:
    return [
        Cell(words=(Code(verdict.metric.name),)),
        code_cell(verdict.reference.name) if verdict.reference is not None else text_cell("-"),
        text_cell(gate_bound(verdict)),
        Cell(words=(gate_value(verdict),), order=verdict.value),
        number_cell(verdict.num_blocks),
        text_cell(verdict_text(verdict), _TONES[verdict.outcome]),
    ]
