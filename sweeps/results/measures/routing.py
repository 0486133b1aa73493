"""Where a leg's routers stand: what each layer drops and how unevenly it loads its experts."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.measures.summary import LayerField, Summary
from sweeps.spec.legs import Leg


@dataclass(frozen=True, kw_only=True)
class LegRouting:
    """Each layer's means over the last window steps of all blocks."""

    dropped_pct: list[float]
    max_vio: list[float]
    dead_experts: list[float]
    lost_tokens_pct: list[float]


def leg_routing(snapshot: Snapshot, leg: Leg) -> LegRouting | None:
    """A leg's layers; None if its steps do not report on layers with experts."""
    summaries = [trial.summary for trial in snapshot.of_leg(leg.name)]
    routing = LegRouting(
        dropped_pct=_mean_over_blocks(summaries, "layer_dropped_pct"),
        max_vio=_mean_over_blocks(summaries, "layer_max_vio"),
        dead_experts=_mean_over_blocks(summaries, "layer_dead_experts"),
        lost_tokens_pct=_mean_over_blocks(summaries, "layer_lost_tokens_pct"),
    )
    return routing if all(vars(routing).values()) else None


def _mean_over_blocks(summaries: Sequence[Summary], field: LayerField) -> list[float]:
    """Each layer's mean over the blocks that report on layers; nothing if none does."""
    told = [layers for summary in summaries if (layers := summary.layers[field])]
    return [statistics.fmean(of_layer) for of_layer in zip(*told, strict=False)]
