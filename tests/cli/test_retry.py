"""`retry` says which legs it would try again, and rejects what it cannot."""

import dataclasses
import os
from collections.abc import Callable

import pytest

from cli.choices import choose_to_drop, choose_to_retry
from sweeps.records.documents import TrialState
from sweeps.records.experiment import Experiment
from sweeps.spec.errors import UsageError

Make = Callable[..., Experiment]
LEG_OF = {"exact-b1": "exact", "capped-b1": "capped", "exact-b2": "exact", "capped-b2": "capped"}
FAILED = ["exact-b1", "capped-b1", "exact-b2"]
STATES: dict[str, TrialState] = {**dict.fromkeys(LEG_OF, "completed"), **dict.fromkeys(FAILED, "failed")}


def fail(experiment: Experiment, trial: str) -> None:
    record = experiment.trial(trial)
    record.update_attempt(dataclasses.replace(record.start_attempt(num_workers=2), end="failed"))


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (None, FAILED),
        (["exact"], ["exact-b1", "exact-b2"]),
        (["exact-b2", "capped"], ["capped-b1", "exact-b2"]),
    ],
)
def test_failed_trials_are_chosen_by_leg_or_trial_in_plan_order(wanted: list[str] | None, chosen: list[str]) -> None:
    assert choose_to_retry(STATES, LEG_OF, wanted) == chosen


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("exat", "there is no leg 'exat'; did you mean exact?"),
        ("", "there is no leg ''"),
        ("capped-b2", "leg capped-b2 has not failed \\(failed or dropped: exact-b1, capped-b1, exact-b2\\)"),
    ],
)
def test_a_leg_that_has_not_failed_is_refused(wanted: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        choose_to_retry(STATES, LEG_OF, [wanted])


def test_a_trial_that_is_named_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="exact-b1 is named twice, also as leg exact"):
        choose_to_retry(STATES, LEG_OF, ["exact", "exact-b1"])
    with pytest.raises(UsageError, match="exact-b2 is named twice, also as leg exact"):
        choose_to_drop(STATES, LEG_OF, ["exact-b2", "exact"])


def test_a_dropped_trial_runs_again_only_if_it_is_named() -> None:
    states: dict[str, TrialState] = {**STATES, "exact-b2": "dropped"}
    assert choose_to_retry(states, LEG_OF, None) == ["exact-b1", "capped-b1"]
    assert choose_to_retry(states, LEG_OF, ["exact"]) == ["exact-b1", "exact-b2"]


def test_what_is_dropped_is_whatever_of_a_leg_is_not_completed() -> None:
    states: dict[str, TrialState] = {**STATES, "exact-b2": "pending", "capped-b1": "interrupted"}
    assert choose_to_drop(states, LEG_OF, ["exact"]) == ["exact-b1", "exact-b2"]
    assert choose_to_drop(states, LEG_OF, ["capped", "exact-b2"]) == ["capped-b1", "exact-b2"]


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (["exat"], "there is no leg 'exat'; did you mean exact?"),
        (["capped-b2"], "leg capped-b2 cannot be dropped: it is completed"),
        (["exact-b1", "exact-b2", "capped"], "--drop would leave no leg; delete the experiment with"),
    ],
)
def test_what_cannot_be_dropped_is_refused(wanted: list[str], sentence: str) -> None:
    states: dict[str, TrialState] = {**STATES, "capped-b2": "dropped" if len(wanted) > 1 else "completed"}
    with pytest.raises(UsageError, match=sentence):
        choose_to_drop(states, LEG_OF, wanted)


def test_nothing_failed_is_nothing_to_do_with_exit_code_0(program: Callable, make_experiment: Make) -> None:
    make_experiment(id="mine")
    done = program("retry", "mine")
    assert (done.code, done.out) == (0, "")
    assert done.err == "no leg of mine has failed; nothing to retry\n"


def test_what_somebody_runs_is_left_to_later(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    fail(experiment, "static-b1")
    experiment.lock()
    done = program("retry", "mine")
    experiment.unlock()
    assert done.code == 75
    assert f"process {os.getpid()}" in done.err
    assert experiment.trial("static-b1").state() == "failed"


def test_a_retry_that_cannot_run_leaves_the_failure_final(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    fail(experiment, "static-b1")
    done = program("retry", "mine", "--num-workers", "3")
    assert done.code == 2
    assert done.err.startswith("error: --num-workers 3: ")
    assert experiment.trial("static-b1").state() == "failed"


def test_a_retry_that_finds_no_cluster_can_be_given_again(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    fail(experiment, "static-b1")
    for _ in range(2):
        done = program("retry", "mine", "--address", "127.0.0.1:1")
        assert done.code == 69
        assert "trying again static-b1" in done.err
        assert experiment.trial("static-b1").state() == "failed"
