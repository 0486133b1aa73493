"""The gates as a sweep declares them, each with the candidate's plain ratio beside its bound.

A ratio on one side of a bound is no verdict: runs of the same leg vary by 1 to 2 %. So a line says what the ratio is
and whether it lies within the bound, and that this is advice.
"""

from dataclasses import dataclass

from sweeps.results.measures.compare import Comparison, Mean, compare, mean_over_blocks
from sweeps.results.measures.snapshot import Snapshot
from sweeps.spec.metrics import METRIC
from sweeps.spec.parts import Gate


@dataclass(frozen=True, kw_only=True)
class GateLine:
    """One gate and how the candidate's ratio lies to it."""

    gate: Gate
    reference: str  # the leg that the candidate is held against
    value: Mean  # the candidate's own
    reference_value: Mean
    comparison: Comparison
    bound: float
    sense: str  # "above", "below" or "at most" the bound

    @property
    def is_within(self) -> bool | None:
        """Whether the plain ratio lies as the gate wants it; None without a ratio."""
        ratio = self.comparison.ratio.value
        if ratio is None:
            return None
        if self.sense == "above":
            return ratio > self.bound
        return ratio < self.bound if self.sense == "below" else ratio <= self.bound

    @property
    def is_invalid(self) -> bool:
        """Whether the two must not be compared in any block."""
        return bool(self.comparison.barred)


def gate_lines(snapshot: Snapshot) -> list[GateLine]:
    """One line per gate, in the order of the sweep."""
    candidate = snapshot.plan.candidate
    if candidate is None:
        return []
    lines: list[GateLine] = []
    for gate in snapshot.plan.gates:
        reference = snapshot.plan.baseline.name if gate.reference == "baseline" else gate.reference
        improving = "above" if METRIC[gate.metric].better == "higher" else "below"
        lines.append(
            GateLine(
                gate=gate,
                reference=reference,
                value=mean_over_blocks(snapshot, candidate.name, gate.metric),
                reference_value=mean_over_blocks(snapshot, reference, gate.metric),
                comparison=compare(snapshot, candidate.name, reference, gate.metric),
                bound=1.0 if gate.at_most is None else gate.at_most,
                sense=improving if gate.at_most is None else "at most",
            )
        )
    return lines
