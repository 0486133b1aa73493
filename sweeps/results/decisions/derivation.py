"""Derives the boundaries of decisions/boundaries.py by simulating experiments in which all legs are equal.

    python -m sweeps.results.decisions.derivation > table      (some minutes)

At every look the largest |contrast / standard error| over the legs is compared with the boundary of that look. All
looks use the same nominal level of that maximum (Pocock 1977, carried over to max-t), chosen so that the chance of a
crossing at any look is ALPHA. The level follows from the draws themselves, so correlation between legs, between looks
and the estimation of the variance are all in it.
"""

import sys

import numpy as np

from sweeps.results.decisions.boundaries import ALPHA, FIRST_LOOK
from sweeps.results.decisions.contrasts import Floats

LEGS, MAX_BLOCKS = range(2, 13), range(3, 13)
_DRAWS_AT_ONCE = 50_000


def statistics_of_equal_legs(num_legs: int, max_blocks: int, num_draws: int, seed: int) -> Floats:
    """The largest |t| over the legs at each look (num_draws, looks), looks from FIRST_LOOK to `max_blocks`."""
    generator = np.random.default_rng(seed)
    parts: list[Floats] = []
    for start in range(0, num_draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, num_draws - start)
        values = generator.standard_normal((size, max_blocks, num_legs))
        parts.append(np.stack([_largest(values[:, :blocks]) for blocks in range(FIRST_LOOK, max_blocks + 1)], axis=1))
    return np.concatenate(parts)


def _largest(values: Floats) -> Floats:
    """Over the legs (draws), against the pooled variance alone: the other two can only widen an interval."""
    num_blocks, num_legs = values.shape[-2:]
    by_leg = values.mean(axis=-2, keepdims=True)
    residuals = values - values.mean(axis=-1, keepdims=True) - by_leg + values.mean(axis=(-2, -1), keepdims=True)
    pooled = (residuals**2).sum(axis=(-2, -1)) / ((num_blocks - 1) * (num_legs - 1))
    means = by_leg[:, 0, 1:] - by_leg[:, 0, :1]
    return np.abs(means).max(axis=1) / np.sqrt(2 * pooled / num_blocks)


def boundaries_of(statistics: Floats, alpha: float = ALPHA) -> list[float]:
    """One boundary per look, of equal nominal level, that `alpha` of the draws (rows of `statistics`) cross at all."""
    ranks = statistics.argsort(axis=0).argsort(axis=0)  # of each draw at each look, 0 the smallest
    highest = np.sort(ranks.max(axis=1))  # a draw crosses if its highest rank reaches the common one
    common = int(highest[int(np.ceil((1 - alpha) * len(statistics))) - 1]) + 1
    ordered = np.sort(statistics, axis=0)
    return [float(column[min(common, len(statistics) - 1)]) for column in ordered.T]


def main(num_draws: int) -> None:
    """Prints the table as Python; two legs, whose boundaries lie far out, get four times the draws."""
    print("BOUNDARIES: dict[tuple[int, int], tuple[float, ...]] = {")
    for num_legs in LEGS:
        draws = num_draws * (4 if num_legs == 2 else 1)
        statistics = statistics_of_equal_legs(num_legs, max(MAX_BLOCKS), draws, seed=num_legs)
        for max_blocks in MAX_BLOCKS:
            found = boundaries_of(statistics[:, : max_blocks - FIRST_LOOK + 1])
            print(f"    ({num_legs}, {max_blocks}): ({', '.join(f'{bound:.2f}' for bound in found)},),", flush=True)
    print("}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
