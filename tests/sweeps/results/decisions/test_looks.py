"""When a leg is decided: boundaries, intervals over the looks, equivalence, gaps, and laws that hold for any data."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sweeps.results.decisions.boundaries import BOUNDARIES
from sweeps.results.decisions.derivation import boundaries_of, statistics_of_equal_legs
from sweeps.results.decisions.looks import findings
from sweeps.results.decisions.reach import boundary

FLIPPED = {"LOWER": "HIGHER", "HIGHER": "LOWER"}


def blocks(*effects: float, num: int = 4, sd: float = 0.0005, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((num, len(effects))) * sd
    return noise + np.array(effects) + np.arange(num)[:, None] * 0.01


@pytest.mark.parametrize("num_legs", [2, 5, 6])
def test_the_boundaries_follow_from_their_derivation(num_legs: int):
    derived = boundaries_of(statistics_of_equal_legs(num_legs, 8, num_draws=200_000, seed=77))
    assert derived == pytest.approx(BOUNDARIES[num_legs, 8], rel=0.08 if num_legs == 2 else 0.03)


def test_the_table_covers_families_of_up_to_twelve_legs_and_blocks():
    assert set(BOUNDARIES) == {(legs, most) for legs in range(2, 13) for most in range(3, 13)}
    for (_, most), bounds in BOUNDARIES.items():
        assert len(bounds) == most - 2
        assert sorted(bounds, reverse=True) == list(bounds)


def test_a_family_without_a_table_is_held_to_a_wider_bound():
    largest = max(legs for legs, _ in BOUNDARIES)
    assert boundary(largest + 1, 8, 5) > boundary(largest, 8, 5)
    assert boundary(5, 20, 5) > boundary(5, 8, 5)


def test_gaps_cost_degrees_of_freedom_at_the_same_level():
    full, gapped = boundary(5, 8, 4), boundary(5, 8, 4, df=10)
    assert gapped > full
    assert stats.t.sf(gapped, 10) == pytest.approx(stats.t.sf(full, 12))


def test_nothing_is_decided_before_the_third_block():
    assert [leg.finding for leg in findings(blocks(0.0, -0.5, num=2), 0, 8)] == ["EQUIVALENT", "INCONCLUSIVE"]
    two = findings(blocks(0.0, -0.5, num=2), 0, 8)[1]
    assert (two.low, two.num_blocks, two.ratio) == (None, 2, pytest.approx(math.exp(-0.5), rel=1e-2))


@given(st.integers(0, 10**6), st.floats(-0.008, 0.008), st.floats(0.0005, 0.004), st.integers(3, 8))
@settings(deadline=None)
def test_a_leg_that_counts_as_equal_shows_an_interval_within_the_margin(seed: int, effect: float, sd: float, num: int):
    for leg in findings(blocks(0.0, effect, 0.0, num=num, sd=sd, seed=seed), 0, 8)[1:]:
        assert leg.ratio is not None
        if leg.finding == "EQUIVALENT":
            assert leg.low is not None
            assert leg.high is not None
            assert 1 / 1.01 < leg.low < leg.high < 1.01


def test_a_clear_difference_is_found_with_its_sign_and_an_equal_leg_is_equivalent():
    faster, slower, equal = findings(blocks(0.0, -0.03, 0.03, 0.0), 0, 8)[1:]
    assert (faster.finding, slower.finding, equal.finding) == ("LOWER", "HIGHER", "EQUIVALENT")
    assert faster.low is not None
    assert faster.high is not None
    assert faster.low < math.exp(-0.03) < faster.high < 1
    assert faster.decided_after == 3


def test_a_difference_that_noise_hides_is_inconclusive():
    (leg,) = findings(blocks(0.0, -0.01, sd=0.01), 0, 8)[1:]
    assert (leg.finding, leg.decided_after) == ("INCONCLUSIVE", None)


def test_the_floor_keeps_a_lucky_calm_from_deciding():
    values = blocks(0.0, -0.004, sd=0.00001, num=3)
    assert findings(values, 0, 8)[1].finding == "INCONCLUSIVE"
    assert findings(values, 0, 8, floor_sd=0.00001)[1].finding == "LOWER"


def test_what_was_decided_stays_decided_and_intervals_only_narrow():
    values = np.concatenate([blocks(0.0, -0.05, num=5), blocks(0.0, 0.0, num=3, sd=0.02, seed=4)])
    widths = []
    for num in range(3, 9):
        leg = findings(values[:num], 0, 8)[1]
        assert leg.finding in ("LOWER", "INVALID")
        widths.append((leg.low, leg.high))
    lows, highs = zip(*widths, strict=True)
    assert list(lows) == sorted(lows)
    assert list(highs) == sorted(highs, reverse=True)


def test_blocks_past_the_maximum_are_not_looked_at():
    values = blocks(0.0, -0.001, num=9, sd=0.002)
    assert findings(values, 0, 8) == findings(values[:8], 0, 8)


def test_a_leg_that_never_ran_is_inconclusive_and_hurts_no_other():
    values = blocks(0.0, -0.03, 0.0)
    values[:, 2] = math.nan
    _, faster, missing = findings(values, 0, 8)
    assert faster.finding == "LOWER"
    assert (missing.finding, missing.num_blocks, missing.ratio) == ("INCONCLUSIVE", 0, None)


def test_a_baseline_that_is_much_noisier_than_the_rest_decides_nothing():
    values = np.random.default_rng(1).standard_normal((6, 5)) * [0.02, 0.001, 0.001, 0.001, 0.001]
    assert {leg.finding for leg in findings(values, 0, 8)[1:]} == {"INVALID"}


tables = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(st.just(seed), st.integers(2, 6), st.integers(3, 8), st.floats(0.0005, 0.01))
)


@settings(max_examples=150, deadline=None)
@given(tables, st.floats(-5, 5))
def test_scaling_every_time_changes_no_finding(table: tuple[int, int, int, float], log_scale: float):
    seed, legs, num, sd = table
    values = np.random.default_rng(seed).standard_normal((num, legs)) * sd + np.linspace(0, 0.01, legs)
    said = [leg.finding for leg in findings(values, 0, 8)]
    assert [leg.finding for leg in findings(values + log_scale, 0, 8)] == said


@settings(max_examples=150, deadline=None)
@given(tables)
def test_exchanging_two_legs_turns_faster_into_slower(table: tuple[int, int, int, float]):
    seed, _, num, sd = table
    values = np.random.default_rng(seed).standard_normal((num, 2)) * sd + [0.0, 0.01]
    one, other = findings(values, 0, 8)[1], findings(values[:, ::-1], 0, 8)[1]
    assert FLIPPED.get(one.finding, one.finding) == other.finding
    if one.low is not None and other.high is not None:
        assert one.low * other.high == pytest.approx(1.0)
