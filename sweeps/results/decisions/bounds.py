"""Whether a leg stays within a bound: of the mean over blocks, with an error rate; or of a maximum, exactly.

A loss is held to its bound by two one-sided tests of 5 %, shared out over the looks: HOLDS, EXCEEDED, or neither yet.
Peak memory is not a noisy sample of a mean: it is compared unchanged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sweeps.results.decisions.boundaries import FIRST_LOOK
from sweeps.results.decisions.contrasts import Floats, contrasts
from sweeps.results.decisions.student import upper_quantile

Held = Literal["HOLDS", "EXCEEDED", "INCONCLUSIVE"]
BOUND_ALPHA = 0.05  # of either wrong answer, over all looks


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """A value against its bound; limits are those of the latest look, one-sided each."""

    held: Held
    value: float | None  # in the unit of the bound
    low: float | None
    high: float | None
    num_blocks: int
    decided_after: int | None


def mean_at_most(
    values: Floats, baseline: int, leg: int, bound: float, *, looks: range, max_blocks: int, floor_sd: float
) -> Bounded:
    """Whether the mean of leg - baseline, from `values` (R, K) with nan for gaps, is at most `bound`.

    `looks`: after how many blocks there has been one.
    """
    return _over_looks(
        [_of_contrast(values[:blocks], baseline, leg, floor_sd) for blocks in looks],
        bound,
        max_blocks,
        _of_contrast(values, baseline, leg, floor_sd),
    )


def own_mean_at_most(values: Floats, leg: int, bound: float, *, looks: range, max_blocks: int) -> Bounded:
    """Whether the leg's own mean, from its column of `values` (R, K), is at most `bound`."""
    column = values[:, leg]
    return _over_looks([_of_column(column[:blocks]) for blocks in looks], bound, max_blocks, _of_column(column))


def maximum_at_most(leg: Sequence[float], reference: Sequence[float], bound: float) -> Bounded:
    """Whether the largest value of a leg is at most `bound` times the largest of the reference; exact, no error."""
    if not leg or not reference or max(reference) <= 0:
        return Bounded(held="INCONCLUSIVE", value=None, low=None, high=None, num_blocks=0, decided_after=None)
    ratio, num_blocks = max(leg) / max(reference), min(len(leg), len(reference))
    held: Held = "HOLDS" if ratio <= bound else "EXCEEDED"
    return Bounded(held=held, value=ratio, low=ratio, high=ratio, num_blocks=num_blocks, decided_after=num_blocks)


@dataclass(frozen=True)
class _Estimate:
    mean: float
    error: float
    df: float
    num_blocks: int


def _of_contrast(values: Floats, baseline: int, leg: int, floor_sd: float) -> _Estimate:
    found = contrasts(values, baseline, floor_sd)
    return _Estimate(
        float(found.mean[leg]), float(found.standard_error[leg]), float(found.df), int(found.num_blocks[leg])
    )


def _of_column(column: Floats) -> _Estimate:
    present = [float(value) for value in column if math.isfinite(value)]
    count = len(present)
    mean = math.fsum(present) / count if count else math.nan
    variance = math.fsum((value - mean) ** 2 for value in present) / (count - 1) if count > 1 else math.nan
    return _Estimate(mean, math.sqrt(variance / count) if count > 1 else math.nan, count - 1, count)


def _over_looks(looks: Sequence[_Estimate], bound: float, max_blocks: int, last: _Estimate) -> Bounded:
    """The first look that decides stands; the limits are those of the last one."""
    level = BOUND_ALPHA / max(1, max_blocks - FIRST_LOOK + 1)
    held: Held = "INCONCLUSIVE"
    decided_after: int | None = None
    low = high = None
    for index, look in enumerate(looks):
        if not math.isfinite(look.error) or look.df <= 0:
            continue
        width = upper_quantile(level, look.df) * look.error
        low, high = look.mean - width, look.mean + width
        if held == "INCONCLUSIVE" and (high <= bound or low > bound):
            held, decided_after = "HOLDS" if high <= bound else "EXCEEDED", FIRST_LOOK + index
    return Bounded(
        held=held,
        value=last.mean if math.isfinite(last.mean) else None,
        low=low,
        high=high,
        num_blocks=last.num_blocks,
        decided_after=decided_after,
    )
