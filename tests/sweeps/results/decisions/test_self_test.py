"""The self-test reads the noise of an experiment and says how often its verdicts would be wrong."""

import dataclasses
import json

import pytest

from sweeps.results.decisions.judgement import judge
from sweeps.results.decisions.self_test import ErrorRate, noise_of, self_test, self_test_json, self_test_lines
from sweeps.results.decisions.student import binomial_lower_limit
from sweeps.results.measures.snapshot import TrialSnapshot
from sweeps.spec.errors import GateUndecided
from tests.helpers.judged import judged_experiment


@pytest.mark.parametrize("sd", [0.002, 0.01])
def test_the_spread_between_runs_is_read_from_the_experiment_whatever_its_legs_do(sd: float):
    snapshot = judged_experiment({"cap1": -0.2, "bf16": 0.5}, sd=sd, num_blocks=8)
    noise = noise_of(snapshot, judge(snapshot))
    assert noise.run_sd == pytest.approx(sd, rel=0.35)  # 21 degrees of freedom
    assert (noise.step_sd, noise.spike_rate, noise.num_steps) == (pytest.approx(0, abs=1e-9), 0, 10)


def test_the_rates_stand_next_to_their_bounds():
    found = self_test(judged_experiment({}, sd=0.002), num_experiments=40)
    assert [check.bound for check in found.checks] == [0.01, 0.015, 0.03, 0.05, None, None]
    assert found.exit_code == 0
    assert "equal legs, one called different: " in self_test_lines(found)[2]
    told = json.loads(json.dumps(self_test_json(found), allow_nan=False))
    assert (told["schema"], told["legs"], len(told["checks"])) == ("nanochat-sweep/self-test/1", 4, 6)


def test_the_same_experiment_gives_the_same_rates():
    snapshot = judged_experiment({}, sd=0.002)
    assert self_test(snapshot, num_experiments=20) == self_test(snapshot, num_experiments=20)


def test_a_rate_fails_only_if_it_is_past_its_bound_by_more_than_chance():
    def check(rate: float) -> ErrorRate:
        return ErrorRate(what="wrong", rate=rate, bound=0.01, num_experiments=500)

    assert check(0.01).holds
    assert check(0.016).holds
    assert not check(0.04).holds
    assert binomial_lower_limit(0, 500, 0.01) == 0
    assert binomial_lower_limit(500, 500, 0.01) > 0.98


def test_without_two_timed_blocks_there_is_no_noise_to_simulate():
    def untimed(trial: TrialSnapshot) -> TrialSnapshot:
        return dataclasses.replace(trial, steps=trial.steps[:15])

    for snapshot in (judged_experiment({}, num_blocks=1), judged_experiment({}, change=untimed)):
        with pytest.raises(GateUndecided, match="does not show yet how much runs differ"):
            self_test(snapshot)
