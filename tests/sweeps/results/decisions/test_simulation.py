"""The declared error rates, of the shipped decisions: simulated experiments with fixed seeds."""

import math

import pytest

from sweeps.results.decisions.simulation import Noise, World, rates

pytestmark = pytest.mark.integration  # thousands of experiments

ONE_PERCENT = -math.log(1.01)


def _world(effects: list[float], noise: Noise) -> World:
    """All legs have the noise."""
    return World(noise=noise, effects=effects, scale=[1.0] * len(effects))


def test_equal_legs_are_called_different_in_at_most_one_experiment_of_a_hundred():
    """Over 10,200 experiments of twelve worlds."""
    found = [
        rates(
            _world([0.0] * 5, Noise(run_sd=sd, phi=phi, spike_rate=0.02, drift_per_block=0.001)),
            num_experiments=850,
            seed=int(sd * 1e4) + int(phi * 100),
        )
        for sd in (0.001, 0.002, 0.003, 0.004)
        for phi in (0.0, 0.5, 0.8)
    ]
    assert sum(world.wrong for world in found) / len(found) <= 0.01
    assert max(world.wrong for world in found) <= 0.02
    assert max(world.invalid for world in found) <= 0.02


def test_one_leg_of_twice_the_spread_costs_half_a_percent_more():
    world = World(noise=Noise(run_sd=0.003), effects=[0.0] * 5, scale=[1.0] * 4 + [2.0])
    assert rates(world, num_experiments=2500, seed=1).wrong <= 0.015


def test_a_baseline_of_twice_the_spread_costs_two_percent_more():
    world = World(noise=Noise(run_sd=0.003), effects=[0.0] * 5, scale=[2.0] + [1.0] * 4)
    assert rates(world, num_experiments=2500, seed=2).wrong <= 0.03


@pytest.mark.parametrize("sd", [0.001, 0.002])
def test_one_percent_is_found_within_eight_blocks(sd: float):
    found = rates(_world([0.0, ONE_PERCENT, 0.0, 0.0, 0.0], Noise(run_sd=sd)), num_experiments=800, seed=3)
    assert found.found >= 0.95
    assert found.wrongly_equivalent <= 0.05


@pytest.mark.parametrize("num_legs", [2, 5])
def test_one_percent_is_rarely_called_equivalent(num_legs: int):
    world = _world([0.0, ONE_PERCENT] + [0.0] * (num_legs - 2), Noise(run_sd=0.004))
    assert rates(world, num_experiments=1000, seed=4).wrongly_equivalent <= 0.05


def test_the_rates_can_fail():
    """A floor of nothing and a world of one lucky block: what the guard is there for is seen without it."""
    world = _world([0.0, ONE_PERCENT], Noise(run_sd=0.02))
    assert rates(world, num_experiments=300, seed=5).found < 0.5
