"""Each leg over another, as plain ratios: advice, not a verdict.

A ratio is taken inside a block, between two completed trials of equally many steps, and averaged geometrically over the
blocks in which there is one. If there is none the comparison says why: a trial that diverged or ran uncompiled is
compared with no other, times and memory only on equal hardware. Runs of the same leg vary by 1 to 2 %, so nothing here
decides anything.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sweeps.results.measures.conditions import code_differences, hardware_differences
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.trial import exp
from sweeps.spec.legs import Leg
from sweeps.spec.metrics import METRIC, Metric


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over blocks, and over how many."""

    value: float | None = None
    num_blocks: int = 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One leg over another in one metric. A block is in `by_block`, in `barred`, or has no number yet."""

    metric: Metric
    by_block: dict[int, float]  # ratios
    barred: dict[int, str]  # why two trials that ran must not be compared

    @property
    def ratio(self) -> Mean:
        """The geometric mean over the blocks with a ratio."""
        return Mean(value=geometric_mean(self.by_block.values()), num_blocks=len(self.by_block))

    @property
    def reason(self) -> str | None:
        """Why the two are not compared in some block, if so."""
        return " / ".join(dict.fromkeys(self.barred.values())) or None


def compare_legs(snapshot: Snapshot, leg: str, base: str, metric: str) -> Comparison:
    """One leg over another, block by block."""
    about, ratios, barred = METRIC[metric], dict[int, float](), dict[int, str]()
    for one, other in blocks_of(snapshot, leg, base):
        reasons = why_barred(about, one, other)
        ratio = _ratio(one.measures[metric], other.measures[metric])
        if reasons:
            barred[one.trial.block] = ", ".join(reasons)
        elif ratio is not None:
            ratios[one.trial.block] = ratio
    return Comparison(metric=about, by_block=ratios, barred=barred)


def fastest_fp8_over_bf16(snapshot: Snapshot) -> tuple[Leg, Leg] | None:
    """The fastest completed leg with FP8 in it, and the bf16 control that it is compared with."""
    control = next((leg for leg in snapshot.plan.legs if leg.role == "control" and not _uses_fp8(leg)), None)
    if control is None:
        return None
    legs = [leg for leg in snapshot.plan.legs if _uses_fp8(leg)]
    speeds = [(compare_legs(snapshot, leg.name, control.name, "tok_per_sec").ratio.value, leg) for leg in legs]
    measured = [(speed, leg) for speed, leg in speeds if speed is not None]
    return (max(measured, key=lambda pair: pair[0])[1], control) if measured else None


def mean_over_blocks(snapshot: Snapshot, leg: str, metric: str) -> Mean:
    """The plain mean of a leg's own value over its completed trials that are what the leg should be."""
    usable = [t for t in snapshot.of_leg(leg) if t.state == "completed" and why_unusable(t) is None]
    values = [value for t in usable if (value := t.measures[metric]) is not None and math.isfinite(value)]
    return Mean(value=sum(values) / len(values) if values else None, num_blocks=len(values))


def blocks_of(snapshot: Snapshot, leg: str, base: str) -> list[tuple[TrialSnapshot, TrialSnapshot]]:
    """The trials of two legs that are completed in the same block after equally many steps."""
    others = {t.trial.block: t for t in snapshot.of_leg(base) if _is_done(t)}
    pairs = [(t, others[t.trial.block]) for t in snapshot.of_leg(leg) if _is_done(t) and t.trial.block in others]
    return [(t, b) for t, b in pairs if t.measures.last_step == b.measures.last_step]


def why_unusable(trial: TrialSnapshot) -> str | None:
    """Why a trial's numbers do not stand for its leg, if so."""
    if trial.fell_back:
        return "ran uncompiled"
    return "diverged" if trial.diverged else None


def unusable_trials(snapshot: Snapshot, *legs: str) -> list[tuple[TrialSnapshot, str]]:
    """The trials of these legs whose numbers do not stand for them, each with the reason."""
    trials = [trial for leg in legs for trial in snapshot.of_leg(leg)]
    return [(trial, why) for trial in trials if (why := why_unusable(trial)) is not None]


def why_barred(metric: Metric, one: TrialSnapshot, other: TrialSnapshot) -> list[str]:
    """Why two completed trials must not be compared in a metric."""
    trials = (one,) if one is other else (one, other)
    unusable = [f"{t.trial.leg.name} {why}" for t in trials if (why := why_unusable(t))]
    return unusable or ([] if one is other else hardware_differences(metric, one, other))


def differing_code(snapshot: Snapshot, leg: str, base: str) -> list[str]:
    """In what the code of two legs differs in any block in which they are compared."""
    pairs = blocks_of(snapshot, leg, base)
    return list(dict.fromkeys(difference for pair in pairs for difference in code_differences(*pair)))


def geometric_mean(ratios: Iterable[float]) -> float | None:
    """The mean of ratios; None of none."""
    logs = [math.log(ratio) for ratio in ratios]
    return exp(math.fsum(logs) / len(logs)) if logs else None


def _is_done(trial: TrialSnapshot) -> bool:
    return trial.state == "completed" and bool(trial.steps)


def _ratio(one: float | None, other: float | None) -> float | None:
    """Their ratio if both are positive numbers and it is one."""
    if one is None or other is None or not (one > 0 and other > 0):
        return None
    ratio = one / other
    return ratio if 0 < ratio < math.inf else None


def _uses_fp8(leg: Leg) -> bool:
    return leg.config.precision.uses_fp8
