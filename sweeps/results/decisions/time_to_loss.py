"""How long a leg trains until it has learnt what another leg has at its end, pooled over blocks, with an interval.

Whether one noisy loss reaches another is chance: of two equal legs each reaches the other's last value in half of the
blocks. So the losses of all blocks are averaged step by step and smoothed over a window, and the target is the other
leg's final value with the tolerance that the sweep's gate on the loss allows. Minutes are steps times what a step
takes, without compilation. The interval leaves out one block at a time (jackknife).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sweeps.results.decisions.boundaries import FIRST_LOOK
from sweeps.results.decisions.contrasts import Floats
from sweeps.results.decisions.student import upper_quantile
from sweeps.results.measures.compare import blocks_of, why_barred
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.time_split import typical_step_s
from sweeps.spec.metrics import METRIC

DEFAULT_TOLERANCE = 1.005  # of the target over the other leg's final loss, without a gate on the loss
_LEVEL = 0.025  # of either side


@dataclass(frozen=True, kw_only=True)
class TimeToLoss:
    """Minutes of training until the target. None: not reached in its steps."""

    target: float
    tolerance: float  # the target over the reference's final loss
    minutes: float | None
    reference_minutes: float | None
    num_blocks: int
    low: float | None = None  # of the ratio leg / reference, 95 %
    high: float | None = None

    @property
    def ratio(self) -> float | None:
        """The leg's minutes over the reference's."""
        if self.minutes is None or self.reference_minutes is None:
            return None
        return self.minutes / self.reference_minutes


def time_to_loss(snapshot: Snapshot, leg: str, reference: str) -> TimeToLoss | None:
    """A leg's time to the loss of another; None if they share no block in which times can be compared."""
    tolerance = tolerance_of(snapshot)
    pairs = [pair for pair in blocks_of(snapshot, leg, reference) if not why_barred(METRIC["total_time_min"], *pair)]
    pairs = [pair for pair in pairs if all(map(_is_whole, pair)) and len(pair[0].steps) == len(pairs[0][0].steps)]
    if not pairs:
        return None
    width = min(snapshot.plan.window_steps, len(pairs[0][0].steps))
    found = _measured(pairs, width, tolerance)
    if found is None:
        return None
    low, high = _limits(pairs, width, tolerance, found.ratio)
    return replace(found, low=low, high=high)


def tolerance_of(snapshot: Snapshot) -> float:
    """What the gate on the loss allows over the baseline, if there is one that allows more than the baseline's."""
    bounds = [gate.at_most for gate in snapshot.plan.gates if gate.metric == "loss" and gate.reference is not None]
    return next((bound for bound in bounds if bound is not None and bound > 1), DEFAULT_TOLERANCE)


def _is_whole(trial: TrialSnapshot) -> bool:
    losses = trial.steps.floats("loss")
    return bool(losses) and all(map(math.isfinite, losses)) and typical_step_s(trial.steps, trial.counted) > 0


_Pairs = Sequence[tuple[TrialSnapshot, TrialSnapshot]]


def _measured(pairs: _Pairs, width: int, tolerance: float) -> TimeToLoss | None:
    mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    other = _smooth(_pooled(theirs), width)
    target = float(other[-1]) * tolerance
    if not target > 0:
        return None
    steps = [_steps_until(_smooth(_pooled(side), width), target, width) for side in (mine, theirs)]
    minutes = [
        None if needed is None else needed * _pace_s(side) / 60
        for needed, side in zip(steps, (mine, theirs), strict=True)
    ]
    return TimeToLoss(
        target=target,
        tolerance=tolerance,
        minutes=minutes[0],
        reference_minutes=minutes[1],
        num_blocks=len(pairs),
    )


def _limits(
    pairs: _Pairs, width: int, tolerance: float, ratio: float | None
) -> tuple[float, float] | tuple[None, None]:
    """95 % of the ratio; none with fewer than three blocks, or if without one of them the target is not reached."""
    if ratio is None or len(pairs) < FIRST_LOOK:
        return None, None
    parts = [_measured([*pairs[:i], *pairs[i + 1 :]], width, tolerance) for i in range(len(pairs))]
    logs = [math.log(part.ratio) for part in parts if part is not None and part.ratio is not None]
    if len(logs) < len(pairs):
        return None, None
    count, mean = len(logs), math.fsum(logs) / len(logs)
    error = math.sqrt((count - 1) / count * math.fsum((value - mean) ** 2 for value in logs))
    spread = upper_quantile(_LEVEL, count - 1) * error
    return ratio * math.exp(-spread), ratio * math.exp(spread)


def _pooled(trials: Sequence[TrialSnapshot]) -> Floats:
    """The mean loss over blocks at every step (S)."""
    return np.mean([trial.steps.floats("loss") for trial in trials], axis=0)


def _smooth(losses: Floats, width: int) -> Floats:
    """Means over the last `width` steps, from the first whole window on (S - width + 1)."""
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    return (sums[width:] - sums[:-width]) / width


def _steps_until(smooth: Floats, target: float, width: int) -> float | None:
    """How many steps until the curve is at the target for the first time, between two steps by interpolation."""
    reached = np.flatnonzero(smooth <= target)
    if not reached.size:
        return None
    place = int(reached[0])
    before, now = (float(smooth[place - 1]), float(smooth[place])) if place else (target, target)
    part = (before - target) / (before - now) if before > now else 1.0
    return width + place - 1 + part if place else float(width)


def _pace_s(trials: Sequence[TrialSnapshot]) -> float:
    """What a step takes, over the blocks."""
    logs = [math.log(typical_step_s(trial.steps, trial.counted)) for trial in trials]
    return math.exp(math.fsum(logs) / len(logs))
