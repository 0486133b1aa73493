"""What a number of blocks can tell: the boundary of each look, the floor, the smallest effect.

Plain arithmetic, so that `plan` loads neither numpy nor scipy where there is a table.
"""

import math

from sweeps.records.documents import Calibration
from sweeps.results.decisions.boundaries import ALPHA, BOUNDARIES, FIRST_LOOK
from sweeps.spec.words import counted

_MOST_LOG = 700.0  # of what a float can hold
DEFAULT_FLOOR_SD = 0.0015  # of ln(dt) of one run, without a calibration


def boundary(num_legs: int, max_blocks: int, look: int, df: float | None = None) -> float:
    """What |contrast / error| must exceed at the look after `look` blocks, out of at most `max_blocks`.

    With gaps in the blocks `df` of the residual is below that of complete ones; the same nominal level then lies
    further out. A family without a table gets Bonferroni's bound over legs and looks, which is a little wider.
    """
    complete = float((look - 1) * (num_legs - 1))
    table = BOUNDARIES.get((num_legs, max_blocks))
    if table is not None and (df is None or df >= complete):
        return table[look - FIRST_LOOK]
    from sweeps.results.decisions.student import upper_quantile, upper_tail

    if table is None:
        level = ALPHA / 2 / ((num_legs - 1) * (max_blocks - FIRST_LOOK + 1))
        return upper_quantile(level, complete if df is None else df)
    assert df is not None, "complete blocks use the table itself"
    return upper_quantile(upper_tail(table[look - FIRST_LOOK], complete), df)


def floor_of(calibration: Calibration | None) -> float:
    """The smallest sd of ln(dt) between runs that is believed."""
    return DEFAULT_FLOOR_SD if calibration is None else calibration.floor_sd


def floor_in_words(floor_sd: float, calibration: Calibration | None) -> str:
    """`0.15 % between runs (default)`, or by which calibration."""
    of = "default, not calibrated"
    if calibration is not None:
        blocks = counted(calibration.num_blocks, "block")
        of = f"calibration {calibration.experiment}: {blocks} of twins of {calibration.leg}"
    return f"{floor_sd * 100:.2g} % between runs ({of})"


def smallest_effect(
    num_legs: int, num_blocks: int, max_blocks: int, run_sd: float, num_running: int | None = None
) -> float | None:
    """The smallest ratio above 1 that `num_blocks` can tell from 1 when runs vary by `run_sd`; None before a look.

    `num_running`: how many of the legs run, if not all; the others leave less to estimate an error from.
    """
    if num_blocks < FIRST_LOOK:
        return None
    df = None if num_running is None else float((num_blocks - 1) * (num_running - 1))
    bound = boundary(num_legs, max(max_blocks, num_blocks), num_blocks, df)
    width = bound * run_sd * math.sqrt(2 / num_blocks)
    return math.exp(width) if width < _MOST_LOG else math.inf
