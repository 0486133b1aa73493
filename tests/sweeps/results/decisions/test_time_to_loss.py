"""Time to loss pools the blocks: equal legs reach each other's loss, and the interval says how sure the minutes are."""

import dataclasses
import math
import random
from collections.abc import Callable

import pytest

from sweeps.records.steps import Steps
from sweeps.results.decisions.time_to_loss import time_to_loss, tolerance_of
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec import Gate
from tests.helpers.judged import judged_experiment
from tests.helpers.rows import row


def experiment(
    loss: Callable[[str, int, random.Random], float],
    *,
    dt_ms: Callable[[str], float] = lambda leg: 100.0,
    num_blocks: int = 4,
    gates: tuple[Gate, ...] = (),
    seed: int = 0,
) -> Snapshot:
    chance = random.Random(seed)

    def with_losses(trial: TrialSnapshot) -> TrialSnapshot:
        leg = trial.trial.leg.name
        rows = [row(s, trial=trial.trial.name, loss=loss(leg, s, chance), dt_ms=dt_ms(leg)) for s in range(40)]
        return dataclasses.replace(trial, steps=Steps.of(rows))

    return judged_experiment({}, num_blocks=num_blocks, gates=gates, change=with_losses)


def falling(leg: str, step: int, chance: random.Random) -> float:
    return 8.0 - 0.1 * step


def noisy(leg: str, step: int, chance: random.Random) -> float:
    return 4 + 5 * math.exp(-step / 8) + chance.gauss(0, 0.02)


def test_the_minutes_can_be_checked_by_hand():
    """Means over 10 steps fall by 0.1 a step to 4.55; with 0.5 % of tolerance the target is 0.22775 steps earlier."""
    found = time_to_loss(experiment(falling, dt_ms=lambda leg: 50.0 if leg == "cap1" else 100.0), "cap1", "cap0")
    assert found is not None
    assert (found.target, found.num_blocks) == (pytest.approx(4.55 * 1.005), 4)
    assert found.reference_minutes == pytest.approx((40 - 0.2275) * 0.1 / 60, rel=1e-6)
    assert found.ratio == pytest.approx(0.5)
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_equal_legs_reach_each_other_and_the_interval_holds_1():
    """Of 20 experiments with noise. Whether one noisy last loss is reached would be a coin's throw in each."""
    found = [time_to_loss(experiment(noisy, seed=seed), "cap1", "cap0") for seed in range(20)]
    assert all(f is not None and f.ratio is not None for f in found)
    holds = [f.low <= 1 <= f.high for f in found if f is not None and f.low is not None and f.high is not None]
    assert (len(holds), sum(holds) >= 17) == (20, True)


def test_a_leg_that_learns_less_than_the_tolerance_allows_does_not_reach_it():
    found = time_to_loss(experiment(lambda leg, s, _: 8 - 0.1 * s + (0.5 if leg == "cap1" else 0)), "cap1", "cap0")
    assert found is not None
    assert (found.minutes, found.ratio, found.low) == (None, None, None)


def test_the_gate_on_the_loss_sets_the_tolerance():
    assert tolerance_of(experiment(falling, gates=(Gate("loss", at_most=1.02),))) == 1.02
    assert tolerance_of(experiment(falling, gates=(Gate("loss", at_most=0.99),))) == 1.005
    assert tolerance_of(experiment(falling)) == 1.005


def test_with_two_blocks_there_is_no_interval_and_without_losses_nothing():
    found = time_to_loss(experiment(noisy, num_blocks=2), "cap1", "cap0")
    assert found is not None
    assert (found.low, found.high) == (None, None)
    assert time_to_loss(experiment(lambda leg, s, _: math.nan), "cap1", "cap0") is None
