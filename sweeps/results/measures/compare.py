"""Each leg over the baseline, as plain ratios: advice, not a verdict.

A ratio is taken inside a block, between two completed trials of equally many steps, and averaged geometrically over the
blocks. A trial that went on uncompiled where compiling failed is compared with none. Single runs of one leg differ by a
percent or two by themselves, so nothing here decides anything.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.trial import Measures, measure, minutes_to_loss
from sweeps.spec.legs import Leg


@dataclass(frozen=True, kw_only=True)
class LegRatios:
    """One leg against another. None: not measured in both, or not comparable."""

    leg: Leg
    num_blocks: int  # in which both are completed
    tok_per_sec: float | None  # over the timing windows of both
    peak_mib: float | None
    loss: float | None  # of the raw mean loss over the last window steps
    minutes_to_baseline_loss: float | None  # mean over blocks; None unless reached in each
    dropped_pct: float | None  # of the leg, mean over blocks


def ratios_to_baseline(snapshot: Snapshot) -> list[LegRatios]:
    """All legs in plan order, the baseline among them."""
    return [against(snapshot, leg, snapshot.plan.baseline) for leg in snapshot.plan.legs]


def fastest_fp8_over_bf16(snapshot: Snapshot) -> tuple[Leg, LegRatios, Leg] | None:
    """The fastest completed leg with FP8 in it, its ratios, and the bf16 control that they divide by."""
    control = next((leg for leg in snapshot.plan.legs if leg.role == "control" and not _uses_fp8(leg)), None)
    if control is None:
        return None
    fp8 = [against(snapshot, leg, control) for leg in snapshot.plan.legs if _uses_fp8(leg)]
    measured = [(r.tok_per_sec, r) for r in fp8 if r.tok_per_sec is not None]
    if not measured:
        return None
    best = max(measured, key=lambda pair: pair[0])[1]
    return best.leg, best, control


def ratios_by_block(
    snapshot: Snapshot, leg: str, base: str, of: Callable[[Measures], float | None]
) -> dict[int, float]:
    """One leg's value over another's in each block in which both are comparable and measured."""
    window = snapshot.plan.window_steps
    ratios: dict[int, float] = {}
    for trial, reference in _pairs(snapshot, leg, base):
        one, other = of(measure(trial.rows, window)), of(measure(reference.rows, window))
        if one is not None and other is not None and one > 0 and other > 0 and math.isfinite(one / other):
            ratios[trial.trial.block] = one / other
    return ratios


def mean_over_blocks(snapshot: Snapshot, leg: str, of: Callable[[Measures], float | None]) -> float | None:
    """The plain mean of a leg's own value over its completed trials, without those that went on uncompiled."""
    done = [t for t in snapshot.of_leg(leg) if t.state == "completed" and not t.fell_back]
    values = [v for t in done if (v := of(measure(t.rows, snapshot.plan.window_steps))) is not None]
    return sum(values) / len(values) if values else None


def has_fallen_back(snapshot: Snapshot, *legs: str) -> bool:
    """Whether any trial of these legs went on uncompiled because compiling failed."""
    return any(trial.fell_back for leg in legs for trial in snapshot.of_leg(leg))


def geometric_mean(ratios: Iterable[float]) -> float | None:
    """The mean of ratios; None of none."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


def _uses_fp8(leg: Leg) -> bool:
    return (leg.config.precision.linears, leg.config.precision.experts) != ("bf16", "bf16")


def against(snapshot: Snapshot, leg: Leg, base: Leg) -> LegRatios:
    """One leg over another; minutes are to the other's last loss."""
    window = snapshot.plan.window_steps
    pairs = _pairs(snapshot, leg.name, base.name)
    measures = [(measure(t.rows, window), measure(b.rows, window)) for t, b in pairs]
    minutes = [minutes_to_loss(t.rows, b.rows[-1].loss_ema) for t, b in pairs]
    reached = [m for m in minutes if m is not None]
    dropped = [m.dropped_pct for m, _ in measures if m.dropped_pct is not None]
    return LegRatios(
        leg=leg,
        num_blocks=len(pairs),
        tok_per_sec=_ratio(measures, lambda m: m.tok_per_sec),
        peak_mib=_ratio(measures, lambda m: m.peak_mib),
        loss=_ratio(measures, lambda m: m.loss),
        minutes_to_baseline_loss=sum(reached) / len(reached) if reached and len(reached) == len(minutes) else None,
        dropped_pct=sum(dropped) / len(dropped) if dropped else None,
    )


def _pairs(snapshot: Snapshot, leg: str, base: str) -> list[tuple[TrialSnapshot, TrialSnapshot]]:
    return [
        (t, b)
        for t in snapshot.of_leg(leg)
        for b in snapshot.of_leg(base)
        if t.trial.block == b.trial.block and _comparable(t, b)
    ]


def _comparable(one: TrialSnapshot, other: TrialSnapshot) -> bool:
    both_done = one.state == other.state == "completed"
    if one.fell_back or other.fell_back:
        return False
    return both_done and bool(one.rows) and bool(other.rows) and one.rows[-1].step == other.rows[-1].step


def _ratio(pairs: Sequence[tuple[Measures, Measures]], of: Callable[[Measures], float | None]) -> float | None:
    values = [(of(one), of(base)) for one, base in pairs]
    logs = [math.log(a / b) for a, b in values if a is not None and b is not None and a > 0 and b > 0]
    usable = bool(logs) and len(logs) == len(pairs) and all(math.isfinite(x) for x in logs)
    return math.exp(math.fsum(logs) / len(logs)) if usable else None
