"""Contrasts inside blocks and their errors, against formulas written out by hand."""

import numpy as np
import pytest

from sweeps.results.decisions.contrasts import Contrasts, contrasts

NAN = float("nan")
VALUES = np.array([[0.0, 1.0, 4.0], [10.0, 11.6, 14.0], [20.0, 20.4, 24.1], [30.0, 31.0, 33.9]])


def test_what_differs_between_blocks_cancels():
    found = contrasts(VALUES, 0, floor_sd=0.0)
    assert found.mean == pytest.approx([0.0, 1.0, 4.0])
    calm = contrasts(VALUES - VALUES[:, :1].mean(axis=1, keepdims=True), 0, floor_sd=0.0)
    assert calm.mean == pytest.approx(found.mean)
    assert calm.standard_error == pytest.approx(found.standard_error)


def test_the_error_is_the_largest_of_pooled_own_and_floor():
    residuals = VALUES - VALUES.mean(0) - VALUES.mean(1, keepdims=True) + VALUES.mean()
    pooled = 2 * (residuals**2).sum() / 6
    own = (VALUES - VALUES[:, :1]).var(axis=0, ddof=1)
    found = contrasts(VALUES, 0, floor_sd=0.0)
    assert found.standard_error[1:] == pytest.approx(np.sqrt(np.maximum(pooled, own)[1:] / 4))
    assert own[1] > pooled > own[2], "both cases are in the example"
    wide = contrasts(VALUES, 0, floor_sd=1.0)
    assert wide.standard_error == pytest.approx([0.0, np.sqrt(2 / 4), np.sqrt(2 / 4)])


def test_a_pair_is_its_own_pool():
    found = contrasts(VALUES[:, :2], 0, floor_sd=0.0)
    differences = VALUES[:, 1] - VALUES[:, 0]
    assert found.standard_error[1] == pytest.approx(differences.std(ddof=1) / 2)
    assert float(found.df) == 3
    assert float(found.baseline_ratio) == 1.0


def _without(block: int, leg: int) -> Contrasts:
    gaps = VALUES.copy()
    gaps[block, leg] = NAN
    return contrasts(gaps, 0, floor_sd=0.0)


def test_a_leg_that_is_missing_from_a_block_drops_out_of_that_blocks_contrasts():
    found = _without(block=1, leg=2)
    assert found.num_blocks.tolist() == [4, 4, 3]
    assert found.mean == pytest.approx([0.0, 1.0, (4.0 + 4.1 + 3.9) / 3])
    assert float(found.df) == 5


def test_a_block_without_the_baseline_helps_no_contrast():
    found = _without(block=2, leg=0)
    assert found.num_blocks.tolist() == [3, 3, 3]
    assert found.mean[1] == pytest.approx((1.0 + 1.6 + 1.0) / 3)


def test_the_layout_with_gaps_is_that_without_where_there_are_none():
    full = contrasts(VALUES, 0, floor_sd=0.0)
    more = np.concatenate([VALUES, np.full((1, 3), NAN)])
    assert contrasts(more, 0, floor_sd=0.0).standard_error == pytest.approx(full.standard_error)


def test_nothing_is_estimated_from_nothing():
    for values in (np.full((3, 2), NAN), VALUES[:1]):
        found = contrasts(values, 0, floor_sd=0.1)
        assert np.isnan(found.standard_error[1:]).all()
    alone = np.full((3, 3), NAN)
    alone[:, 0] = [1.0, 2.0, 3.0]
    found = contrasts(alone, 0, floor_sd=0.1)
    assert found.num_blocks.tolist() == [3, 0, 0]
    assert np.isnan(found.mean[1:]).all()


def test_a_noisy_baseline_shows():
    generator = np.random.default_rng(0)
    values = generator.standard_normal((8, 5)) * [20.0, 1.0, 1.0, 1.0, 1.0]
    assert float(contrasts(values, 0, floor_sd=0.0).baseline_ratio) > 2.5
    assert float(contrasts(values, 1, floor_sd=0.0).baseline_ratio) < 1.0


def test_many_experiments_at_once_are_each_of_them():
    both = np.stack([VALUES, VALUES[::-1] * 2])
    together = contrasts(both, 0, floor_sd=0.0)
    for index in range(2):
        alone = contrasts(both[index], 0, floor_sd=0.0)
        assert together.standard_error[index] == pytest.approx(alone.standard_error)
