"""Bounds on means and on maxima."""

import math

import numpy as np

from sweeps.results.decisions.bounds import maximum_at_most, mean_at_most, own_mean_at_most

LOSSES = np.log(np.array([[4.0, 4.001], [4.02, 4.018], [3.98, 3.981], [4.01, 4.012]]))


def test_a_loss_within_its_bound_holds_and_one_beyond_it_is_exceeded():
    held = mean_at_most(LOSSES, 0, 1, math.log(1.005), looks=range(3, 5), max_blocks=8, floor_sd=0.0)
    assert (held.held, held.decided_after) == ("HOLDS", 3)
    assert (
        mean_at_most(
            LOSSES + np.array([0.0, 0.02]), 0, 1, math.log(1.005), looks=range(3, 5), max_blocks=8, floor_sd=0.0
        ).held
        == "EXCEEDED"
    )
    assert mean_at_most(LOSSES, 0, 1, 0.0, looks=range(3, 5), max_blocks=8, floor_sd=0.0).held == "INCONCLUSIVE"


def test_two_blocks_decide_no_mean():
    early = mean_at_most(LOSSES[:2], 0, 1, 1.0, looks=range(0), max_blocks=8, floor_sd=0.0)
    assert (early.held, early.num_blocks, early.low) == ("INCONCLUSIVE", 2, None)


def test_equal_losses_hold_exactly():
    same = np.repeat(LOSSES[:, :1], 2, axis=1)
    assert mean_at_most(same, 0, 1, math.log(1.005), looks=range(3, 5), max_blocks=8, floor_sd=0.0).held == "HOLDS"
    assert mean_at_most(same, 0, 1, 0.0, looks=range(3, 5), max_blocks=8, floor_sd=0.0).held == "HOLDS"


def test_a_leg_has_a_mean_of_its_own():
    drops = np.array([[0.0, 1.0], [0.0, 1.1], [0.0, 0.9]])
    assert own_mean_at_most(drops, 1, 2.0, looks=range(3, 4), max_blocks=8).held == "HOLDS"
    assert own_mean_at_most(drops, 1, 0.2, looks=range(3, 4), max_blocks=8).held == "EXCEEDED"
    assert own_mean_at_most(drops, 1, 1.05, looks=range(3, 4), max_blocks=8).held == "INCONCLUSIVE"


def test_memory_is_compared_exactly_by_its_largest_block():
    assert maximum_at_most([100.0, 105.0], [100.0, 99.0], 1.05).held == "HOLDS"
    beyond = maximum_at_most([100.0, 106.0], [100.0], 1.05)
    assert (beyond.held, beyond.value, beyond.num_blocks) == ("EXCEEDED", 1.06, 1)
    assert maximum_at_most([], [100.0], 1.05).held == "INCONCLUSIVE"
