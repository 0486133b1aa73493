"""The rows of verdicts.parquet: one per gate, judged for the candidate, and one per leg in speed."""

from typing import Any

from sweeps.results.decisions.judged import judged
from sweeps.results.decisions.judgement import LegVerdict
from sweeps.results.decisions.listing import gate_values, leg_values
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.tables.column import About

VERDICT_COLUMNS: list[About] = [
    About("kind", "text", "", "gate: of the sweep, judged for the candidate; leg: speed of a leg over the baseline"),
    About("metric", "text", "", "what is compared"),
    About("leg", "text", "", "leg that is judged"),
    About("reference", "text", "", "leg that it is held against; null for a bound of its own"),
    About("verdict", "text", "", "IMPROVED, EQUIVALENT, REGRESSED, HOLDS, EXCEEDED, INCONCLUSIVE, ADVISORY or INVALID"),
    About("outcome", "text", "", "of a gate: PASS, FAIL or UNDECIDED"),
    About("value", "float64", "", "leg over reference; without a reference the leg's own value"),
    About("low", "float64", "", "lower limit of its interval"),
    About("high", "float64", "", "upper limit of its interval"),
    About("blocks", "int32", "blocks", "blocks that it rests on"),
    About("decided_after", "int32", "blocks", "blocks at the look that decided; null while undecided"),
    About("small", "bool", "", "whether it is an improvement that few would notice"),
    About("reason", "text", "", "why it is ADVISORY or INVALID"),
    About("improves", "bool", "", "whether a gate asks for an improvement"),
    About("at_most", "float64", "", "the bound of a gate, if it has this one"),
    About("at_least", "float64", "", "the bound of a gate, if it has this one"),
    About("complete_blocks", "int32", "blocks", "complete blocks of the experiment"),
    About("max_blocks", "int32", "blocks", "after which there is no further look"),
    About("experiment", "text", "", "id of the experiment"),
]


def verdict_rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Gates first, then legs, both in the order of the plan."""
    judgement = judged(snapshot)
    of_experiment = {
        "complete_blocks": judgement.num_complete,
        "max_blocks": judgement.max_blocks,
        "experiment": snapshot.manifest.id,
    }
    gates = [{"kind": "gate", **gate_values(verdict)} for verdict in judgement.gates]
    return [{**row, **of_experiment} for row in (*gates, *map(_leg_row, judgement.legs))]


def _leg_row(verdict: LegVerdict) -> dict[str, Any]:
    values = leg_values(verdict)
    return {"kind": "leg", "value": values.pop("ratio"), **{name: v for name, v in values.items() if name != "role"}}
