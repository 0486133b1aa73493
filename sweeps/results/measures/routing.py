"""Where a leg's routers stand: what each layer drops and how unevenly it loads its experts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sweeps.records.steps import Steps
from sweeps.results.measures.snapshot import Snapshot
from sweeps.spec.legs import Leg

LayerField = Literal["layer_dropped_pct", "layer_max_vio", "layer_dead_experts", "layer_lost_tokens_pct"]


@dataclass(frozen=True, kw_only=True)
class LegRouting:
    """Each layer's means over the last window steps of all blocks."""

    dropped_pct: list[float]
    max_vio: list[float]
    dead_experts: list[float]
    lost_tokens_pct: list[float]


def leg_routing(snapshot: Snapshot, leg: Leg) -> LegRouting | None:
    """A leg's layers; None if its steps do not report on layers with experts."""
    tails = [t.steps[-snapshot.plan.window_steps :] for t in snapshot.of_leg(leg.name)]
    routing = LegRouting(
        dropped_pct=layer_means(tails, "layer_dropped_pct"),
        max_vio=layer_means(tails, "layer_max_vio"),
        dead_experts=layer_means(tails, "layer_dead_experts"),
        lost_tokens_pct=layer_means(tails, "layer_lost_tokens_pct"),
    )
    return routing if all(vars(routing).values()) else None


def layer_means(tails: Sequence[Steps], field: LayerField) -> list[float]:
    """Each layer's mean over the steps that report on layers; nothing if none does."""
    told = [values for tail in tails for values in tail.layers(field) if values is not None]
    layers = range(min(map(len, told), default=0))
    return [sum(values[layer] for values in told) / len(told) for layer in layers]
