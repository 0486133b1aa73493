"""The gates as a sweep declares them, each with the candidate's plain ratio beside its bound.

A ratio on one side of a bound is no verdict: single runs of one leg differ by a percent or two by themselves. So a line
says what the ratio is and whether it lies within the bound, and that this is advice.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sweeps.results.measures.compare import geometric_mean, mean_over_blocks, ratios_by_block
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.measures.trial import Measures
from sweeps.spec.parts import Gate

MEASURES: dict[str, Callable[[Measures], float | None]] = {
    "tok_per_sec": lambda m: m.tok_per_sec,
    "dt_ms": lambda m: m.dt_ms,
    "bf16_mfu_pct": lambda m: m.bf16_mfu_pct,
    "useful_mfu_pct": lambda m: m.useful_mfu_pct,
    "peak_mib": lambda m: m.peak_mib,
    "loss": lambda m: m.loss,
    "total_time_min": lambda m: m.total_time_min,
}
_HIGHER_IS_BETTER = ("tok_per_sec", "bf16_mfu_pct", "useful_mfu_pct")


@dataclass(frozen=True, kw_only=True)
class GateLine:
    """One gate and how the candidate's ratio lies to it."""

    gate: Gate
    reference: str  # the leg that the candidate is held against
    value: float | None  # the candidate's own, a plain mean over blocks
    reference_value: float | None
    ratio: float | None  # geometric mean over blocks; None: not measured in both
    bound: float
    sense: str  # "above", "below" or "at most" the bound
    num_blocks: int

    @property
    def is_within(self) -> bool | None:
        """Whether the plain ratio lies as the gate wants it; None without a ratio."""
        if self.ratio is None:
            return None
        if self.sense == "above":
            return self.ratio > self.bound
        return self.ratio < self.bound if self.sense == "below" else self.ratio <= self.bound


def gate_lines(snapshot: Snapshot) -> list[GateLine]:
    """One line per gate, in the order of the sweep."""
    candidate = snapshot.plan.candidate
    if candidate is None:
        return []
    lines: list[GateLine] = []
    for gate in snapshot.plan.gates:
        reference = snapshot.plan.baseline.name if gate.reference == "baseline" else gate.reference
        ratios = ratios_by_block(snapshot, candidate.name, reference, MEASURES[gate.metric])
        improving = "above" if gate.metric in _HIGHER_IS_BETTER else "below"
        lines.append(
            GateLine(
                gate=gate,
                reference=reference,
                value=mean_over_blocks(snapshot, candidate.name, MEASURES[gate.metric]),
                reference_value=mean_over_blocks(snapshot, reference, MEASURES[gate.metric]),
                ratio=geometric_mean(ratios.values()),
                bound=1.0 if gate.at_most is None else gate.at_most,
                sense=improving if gate.at_most is None else "at most",
                num_blocks=len(ratios),
            )
        )
    return lines
