"""Two experiments, leg by leg: advice, unless they share the runs of the baseline in enough blocks."""

import dataclasses
import json

import pytest

from sweeps.records.documents import Origin
from sweeps.results.decisions.comparison import compare_experiments, comparison_json
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec.errors import UsageError
from tests.helpers.judged import FACTS, Change, judged_experiment


def experiment(id: str, effects: dict[str, float], *, sd: float = 0.0005, change: Change = lambda t: t) -> Snapshot:
    made = judged_experiment(effects, sd=sd, change=change)
    return dataclasses.replace(made, uri=f"/experiments/{id}", manifest=dataclasses.replace(made.manifest, id=id))


def taken_from(other: str, *legs: str) -> Change:
    """As `--continue-from` copies trials: these legs were run by the other experiment."""
    origin = Origin(experiment=other, git_commit=None, copied_utc="2026-01-01T13:00:00.000000Z")
    return lambda trial: dataclasses.replace(trial, origin=origin) if trial.trial.leg.name in legs else trial


def test_experiments_at_two_times_give_advice_with_an_interval():
    found = compare_experiments(experiment("a", {}), experiment("b", {"cap1": -0.03}))
    pair = next(pair for pair in found.pairs if pair.leg == "cap1")
    assert (pair.word, pair.reason, pair.num_shared) == ("ADVISORY", "the experiments share no blocks", 0)
    assert pair.ratio == pytest.approx(1 / 0.97, abs=0.002)
    assert pair.low is not None
    assert pair.high is not None
    assert pair.ratio is not None
    assert 1 < pair.low < pair.ratio < pair.high
    assert (found.outcome, found.exit_code) == ("UNDECIDED", 4)


def test_both_are_held_against_one_common_baseline():
    found = compare_experiments(experiment("a", {"cap1": -0.02}), experiment("b", {"cap0": 0.05, "cap1": -0.03}))
    by_leg = {pair.leg: pair for pair in found.pairs}
    assert found.baseline == "cap0"
    assert by_leg["cap0"].first_over_baseline == pytest.approx(1)
    assert by_leg["cap0"].second_over_baseline == pytest.approx(1 / 1.05, abs=0.003)
    assert by_leg["cap1"].first_over_baseline == pytest.approx(1 / 0.98, abs=0.003)
    assert by_leg["cap1"].second_over_baseline == pytest.approx(1 / 0.97, abs=0.003)


@pytest.mark.parametrize(
    ("effect", "word", "code"), [(0.03, "REGRESSED", 3), (-0.03, "IMPROVED", 0), (0.2, "REGRESSED", 3)]
)
def test_experiments_that_share_the_baselines_runs_give_a_verdict(effect: float, word: str, code: int):
    first = experiment("a", {})
    second = experiment("b", {"cap1": effect}, change=taken_from("a", "cap0", "cap1.25", "bf16"))
    found = compare_experiments(first, second)
    words = {pair.leg: (pair.word, pair.reason) for pair in found.pairs}
    assert words["cap1"] == (word, None)
    assert words["cap0"] == words["bf16"] == ("EQUIVALENT", "the same runs")
    assert found.exit_code == code


def test_other_hardware_is_not_compared_in_speed():
    def elsewhere(trial: TrialSnapshot) -> TrialSnapshot:
        attempts = [dataclasses.replace(a, facts={**FACTS, "device_name": "NVIDIA H200"}) for a in trial.attempts]
        return dataclasses.replace(trial, attempts=attempts)

    found = compare_experiments(experiment("a", {}), experiment("b", {}, change=elsewhere))
    assert {pair.word for pair in found.pairs} == {"INVALID"}
    assert all(pair.ratio is None and "NVIDIA H200" in (pair.reason or "") for pair in found.pairs)
    assert found.exit_code == 4


def test_single_runs_have_no_interval_and_missing_ones_no_ratio():
    def only_first(trial: TrialSnapshot) -> TrialSnapshot:
        done = trial.trial.block == 1 and trial.trial.leg.name != "bf16"
        return trial if done else dataclasses.replace(trial, state="pending")

    found = compare_experiments(experiment("a", {}), experiment("b", {}, change=only_first))
    by_leg = {pair.leg: pair for pair in found.pairs}
    assert (by_leg["cap1"].num_second, by_leg["cap1"].low) == (1, None)
    assert (by_leg["bf16"].ratio, by_leg["bf16"].word) == (None, "INCONCLUSIVE")


def test_the_json_has_every_leg_and_no_number_that_json_has_not():
    found = compare_experiments(experiment("a", {}), experiment("b", {"cap1": -0.03}))
    told = json.loads(json.dumps(comparison_json(found), allow_nan=False))
    assert (told["schema"], told["first"], told["second"]) == ("nanochat-sweep/compare/1", "a", "b")
    assert [leg["leg"] for leg in told["legs"]] == ["cap0", "cap1", "cap1.25", "bf16"]
    assert told["legs"][1]["loss_ratio"] == pytest.approx(1, abs=0.01)


def test_an_experiment_is_not_compared_with_itself():
    with pytest.raises(UsageError, match="a is given twice"):
        compare_experiments(experiment("a", {}), experiment("a", {}))
