"""What can be said of a leg after the looks so far: a group-sequential decision with declared error rates.

The maximum number of blocks and the family of legs are fixed before the first look. A look comes after every complete
block from the third on. At each look the interval of every contrast uses the boundary of that look, so that all
intervals of all legs at all looks hold together with 99 %; they are therefore intersected, and a leg that was decided
stays decided. Equivalence is two one-sided tests of 5 % shared out over the looks, so its intervals may be intersected
too: they hold together with 95 %, and a leg that counts as equal shows that one, which lies within the margin.

    K  legs of the family, the baseline among them     R  blocks     values are logarithms, so a contrast is a ratio
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sweeps.results.decisions.boundaries import FIRST_LOOK
from sweeps.results.decisions.contrasts import Contrasts, Floats, contrasts
from sweeps.results.decisions.reach import DEFAULT_FLOOR_SD, boundary
from sweeps.results.decisions.student import upper_quantile

Finding = Literal["LOWER", "HIGHER", "EQUIVALENT", "INCONCLUSIVE", "INVALID"]

EQUIVALENCE_ALPHA = 0.05
EQUIVALENCE_MARGIN = 0.01  # a ratio between 1 / 1.01 and 1.01 counts as equal
MAX_BASELINE_RATIO = 2.5  # a baseline that is this much noisier than the other legs is no baseline
MIN_BLOCKS_OF_RATIO = 4  # with three blocks that ratio is mere chance


@dataclass(frozen=True, kw_only=True)
class LegFinding:
    """One leg against the baseline after the looks so far.

    Limits are of the ratio leg / baseline, at 99 % for all legs together; of an EQUIVALENT leg those of its two tests.
    """

    finding: Finding
    ratio: float | None
    low: float | None
    high: float | None
    num_blocks: int  # that the leg shares with the baseline
    decided_after: int | None  # blocks at the look that decided; None while INCONCLUSIVE
    standard_error: float | None  # of ln(ratio), at the latest look


NOT_RUN = LegFinding(
    finding="INCONCLUSIVE", ratio=None, low=None, high=None, num_blocks=0, decided_after=None, standard_error=None
)


def findings(
    values: Floats,
    baseline: int,
    max_blocks: int,
    floor_sd: float = DEFAULT_FLOOR_SD,
    num_complete: int | None = None,
) -> list[LegFinding]:
    """For each leg what `values` (R, K) allow to say, blocks in plan order; nan: no usable run.

    Only the first `num_complete` blocks are looked at (all without it), and none past `max_blocks`: those were not part
    of what the boundaries were made for. Before the first look the ratio is a plain mean over whatever is there.
    """
    num_blocks, num_legs = values.shape
    after = looks_after(num_blocks if num_complete is None else num_complete, max_blocks)
    looks = [_Look(values[:blocks], baseline, max_blocks, floor_sd) for blocks in after]
    if not looks:
        return [_undecided(values, leg, baseline) for leg in range(num_legs)]
    return [_finding(leg, looks, leg == baseline) for leg in range(num_legs)]


def looks_after(num_complete: int, max_blocks: int) -> range:
    """After how many blocks there has been a look."""
    return range(FIRST_LOOK, min(num_complete, max_blocks) + 1)


class _Look:
    """The contrasts after some blocks, with the widths that this look uses."""

    def __init__(self, values: Floats, baseline: int, max_blocks: int, floor_sd: float) -> None:
        num_blocks, num_legs = values.shape
        self.num_blocks = num_blocks
        self.found: Contrasts = contrasts(values, baseline, floor_sd)
        df = float(self.found.df)
        self.bound = boundary(num_legs, max_blocks, num_blocks, df) if df > 0 else math.inf
        num_looks = max_blocks - FIRST_LOOK + 1
        self.equivalence_bound = upper_quantile(EQUIVALENCE_ALPHA / num_looks, df) if df > 0 else math.inf
        self.is_invalid = num_blocks >= MIN_BLOCKS_OF_RATIO and float(self.found.baseline_ratio) > MAX_BASELINE_RATIO


def _finding(leg: int, looks: Sequence[_Look], is_baseline: bool) -> LegFinding:
    low, high = -math.inf, math.inf
    tested_low, tested_high = -math.inf, math.inf
    finding: Finding = "INCONCLUSIVE"
    decided_after: int | None = None
    last = looks[-1]
    for look in looks:
        mean, error = float(look.found.mean[leg]), float(look.found.standard_error[leg])
        if not math.isfinite(mean) or not math.isfinite(error) or is_baseline:
            continue
        low, high = max(low, mean - look.bound * error), min(high, mean + look.bound * error)
        tested = look.equivalence_bound * error
        tested_low, tested_high = max(tested_low, mean - tested), min(tested_high, mean + tested)
        if finding == "INCONCLUSIVE":
            finding = _said(mean, error, low, high, look)
            decided_after = None if finding == "INCONCLUSIVE" else look.num_blocks
    if last.is_invalid or low > high:  # or what the looks say cannot all be true
        finding, decided_after = "INVALID", None
    if finding == "EQUIVALENT":
        low, high = tested_low, tested_high
    mean, error = float(last.found.mean[leg]), float(last.found.standard_error[leg])
    return LegFinding(
        finding="EQUIVALENT" if is_baseline else finding,
        ratio=_exp(mean),
        low=_exp(low),
        high=_exp(high),
        num_blocks=int(last.found.num_blocks[leg]),
        decided_after=decided_after,
        standard_error=error if math.isfinite(error) else None,
    )


def _said(mean: float, error: float, low: float, high: float, look: _Look) -> Finding:
    if high < 0:
        return "LOWER"
    if low > 0:
        return "HIGHER"
    is_inside = abs(mean) + look.equivalence_bound * error < math.log1p(EQUIVALENCE_MARGIN)
    return "EQUIVALENT" if is_inside else "INCONCLUSIVE"


def _undecided(values: Floats, leg: int, baseline: int) -> LegFinding:
    """Before the first look."""
    both = np.isfinite(values[:, leg]) & np.isfinite(values[:, baseline])
    mean = float(np.mean(values[both, leg] - values[both, baseline])) if both.any() else math.nan
    return LegFinding(
        finding="EQUIVALENT" if leg == baseline else "INCONCLUSIVE",
        ratio=_exp(mean),
        low=None,
        high=None,
        num_blocks=int(both.sum()),
        decided_after=None,
        standard_error=None,
    )


def _exp(value: float) -> float | None:
    return math.exp(value) if math.isfinite(value) and value < 700 else None
