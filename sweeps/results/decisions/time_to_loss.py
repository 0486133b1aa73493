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
    sides = (_Side.of([pair[0] for pair in pairs]), _Side.of([pair[1] for pair in pairs]))
    found = _measured(sides, width, tolerance)
    if found is None:
        return None
    low, high = _limits(sides, width, tolerance, found.ratio)
    return replace(found, low=low, high=high)


def tolerance_of(snapshot: Snapshot) -> float:
    """What the gate on the loss allows over the baseline, if there is one that allows more than the baseline's."""
    bounds = [gate.at_most for gate in snapshot.plan.gates if gate.metric == "loss" and gate.reference is not None]
    return next((bound for bound in bounds if bound is not None and bound > 1), DEFAULT_TOLERANCE)


def _is_whole(trial: TrialSnapshot) -> bool:
    losses = trial.steps.floats("loss")
    return bool(losses) and all(map(math.isfinite, losses)) and typical_step_s(trial.steps, trial.counted) > 0


@dataclass(frozen=True)
class _Side:
    """The runs of one leg."""

    losses: Floats  # (R, S)
    log_pace: Floats  # (R), of a step's seconds

    @classmethod
    def of(cls, trials: Sequence[TrialSnapshot]) -> "_Side":
        return cls(
            np.array([trial.steps.floats("loss") for trial in trials]),
            np.array([math.log(typical_step_s(trial.steps, trial.counted)) for trial in trials]),
        )

    def without(self, block: int) -> "_Side":
        """The others."""
        return _Side(np.delete(self.losses, block, axis=0), np.delete(self.log_pace, block))


def _measured(sides: tuple[_Side, _Side], width: int, tolerance: float) -> TimeToLoss | None:
    curves = [_smooth(side.losses.mean(axis=0), width) for side in sides]
    target = float(curves[1][-1]) * tolerance
    if not target > 0:
        return None
    minutes = [
        None if (steps := _steps_until(curve, target, width)) is None else steps * math.exp(side.log_pace.mean()) / 60
        for curve, side in zip(curves, sides, strict=True)
    ]
    return TimeToLoss(
        target=target,
        tolerance=tolerance,
        minutes=minutes[0],
        reference_minutes=minutes[1],
        num_blocks=len(sides[0].log_pace),
    )


def _limits(
    sides: tuple[_Side, _Side], width: int, tolerance: float, ratio: float | None
) -> tuple[float, float] | tuple[None, None]:
    """95 % of the ratio; none with fewer than three blocks, or if without one of them the target is not reached."""
    count = len(sides[0].log_pace)
    if ratio is None or count < FIRST_LOOK:
        return None, None
    parts = [_measured((sides[0].without(b), sides[1].without(b)), width, tolerance) for b in range(count)]
    logs = [math.log(part.ratio) for part in parts if part is not None and part.ratio is not None]
    if len(logs) < count:
        return None, None
    mean = math.fsum(logs) / count
    error = math.sqrt((count - 1) / count * math.fsum((value - mean) ** 2 for value in logs))
    spread = upper_quantile(_LEVEL, count - 1) * error
    return ratio * math.exp(-spread), ratio * math.exp(spread)


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
