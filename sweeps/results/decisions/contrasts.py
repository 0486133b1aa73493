"""How a leg differs from the baseline: a mean over blocks, and how uncertain that mean is.

A block runs every leg once, so what differs between blocks (the hour, the host, the temperature) cancels in a contrast
inside it. The variance of a contrast is the largest of three: the one pooled over all legs (the residual of the
two-way layout block + leg), the pair's own, and a floor that calibration gives. Choosing the largest instead of testing
which one applies keeps the error rate when one leg is noisier than the others, for a small loss of power.

    R  blocks     K  legs, the baseline among them     ...  any leading shape, for simulation
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Contrasts:
    """All legs against the baseline, in the order of the values' columns; the baseline's own entry is 0 with error 0.

    nan: the leg shares no block with the baseline, or nothing is left to estimate an error from.
    """

    mean: Floats  # (..., K), of leg - baseline
    standard_error: Floats  # (..., K)
    num_blocks: Floats  # (..., K), in which both ran
    df: Floats  # (...), of the pooled residual
    baseline_ratio: Floats  # (...), residual sd of the baseline over that of the other legs; 1 with a single other leg


def contrasts(values: Floats, baseline: int, floor_sd: float) -> Contrasts:
    """Contrasts of `values` (..., R, K); nan marks a leg that is missing from a block.

    `floor_sd`: the smallest standard deviation of one run that is believed, in the unit of the values.
    """
    present = np.isfinite(values)
    residuals, df = _residuals(values, present)
    pooled = _ratio((residuals**2).sum(axis=(-2, -1)), df)  # (...)
    differences = np.where(present & present[..., baseline : baseline + 1], values, np.nan)
    differences = differences - values[..., baseline : baseline + 1]  # (..., R, K)
    num_blocks = np.isfinite(differences).sum(axis=-2).astype(np.float64)  # (..., K)
    mean = _ratio(np.nansum(differences, axis=-2), num_blocks)
    spread = np.nansum((differences - mean[..., None, :]) ** 2, axis=-2)
    own = _ratio(spread, num_blocks - 1)  # variance of one difference
    one_difference = np.fmax(np.fmax(2 * pooled[..., None], own), 2 * floor_sd**2)
    error = np.sqrt(_ratio(one_difference, num_blocks))
    usable = np.isfinite(pooled)[..., None] & (num_blocks >= 2)
    error = np.where(usable, error, np.nan)
    error[..., baseline] = 0.0
    return Contrasts(
        mean=mean,
        standard_error=error,
        num_blocks=num_blocks,
        df=df,
        baseline_ratio=_baseline_ratio(residuals, baseline, df),
    )


def _residuals(values: Floats, present: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """What block + leg leaves unexplained (..., R, K), 0 where a value is missing, and its degrees of freedom (...)."""
    num_blocks, num_legs = values.shape[-2:]
    if present.all():
        by_block = values.mean(axis=-1, keepdims=True)
        by_leg = values.mean(axis=-2, keepdims=True)
        residuals = values - by_block - by_leg + values.mean(axis=(-2, -1), keepdims=True)
        return residuals, np.full(values.shape[:-2], float((num_blocks - 1) * (num_legs - 1)))
    flat, marks = values.reshape(-1, num_blocks, num_legs), present.reshape(-1, num_blocks, num_legs)
    fitted = [_residuals_of_some(table, there) for table, there in zip(flat, marks, strict=True)]
    residuals = np.stack([table for table, _ in fitted]).reshape(values.shape)
    return residuals, np.array([df for _, df in fitted]).reshape(values.shape[:-2])


def _residuals_of_some(table: Floats, there: NDArray[np.bool_]) -> tuple[Floats, float]:
    """One table (R, K) with gaps: least squares over what is there."""
    num_blocks, num_legs = table.shape
    block, leg = np.nonzero(there)
    design = np.concatenate([np.eye(num_blocks)[block], np.eye(num_legs)[leg]], axis=1)
    residuals = np.zeros_like(table)
    if not block.size:
        return residuals, 0.0
    effects, _, rank, _ = np.linalg.lstsq(design, table[there], rcond=None)
    residuals[there] = table[there] - design @ effects
    return residuals, float(block.size - rank)


def _baseline_ratio(residuals: Floats, baseline: int, df: Floats) -> Floats:
    """By the mean square of a residual; in a layout with two legs both have the same residuals."""
    num_legs = residuals.shape[-1]
    squares = (residuals**2).sum(axis=-2)  # (..., K)
    others = (squares.sum(axis=-1) - squares[..., baseline]) / max(1, num_legs - 1)
    return np.sqrt(_ratio(squares[..., baseline], others, empty=1.0)) if num_legs > 2 else np.ones_like(df)


def _ratio(numerator: Floats, denominator: Floats, empty: float = float("nan")) -> Floats:
    """Quotient with `empty` where the denominator is not positive."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    result = np.full(numerator.shape, empty)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
