"""When another block is worth running."""

import dataclasses
from collections.abc import Callable

import pytest

from sweeps.results.decisions.growth import blocks_wanted
from sweeps.results.measures.snapshot import TrialSnapshot
from tests.helpers.judged import judged_experiment


def state(name: str, block: int, word: str) -> Callable[[TrialSnapshot], TrialSnapshot]:
    def change(trial: TrialSnapshot) -> TrialSnapshot:
        is_it = (trial.trial.leg.name, trial.trial.block) == (name, block)
        return dataclasses.replace(trial, state=word) if is_it else trial

    return change


def test_before_the_first_look_there_are_to_be_three_blocks():
    assert blocks_wanted(judged_experiment({"cap1": -0.03}, num_blocks=1)) == 3
    assert blocks_wanted(judged_experiment({"cap1": -0.03}, num_blocks=2)) == 3


def test_what_is_decided_needs_no_more():
    assert blocks_wanted(judged_experiment({"cap1": -0.03}, num_blocks=3)) == 3
    assert blocks_wanted(judged_experiment({"cap1": 0.03}, num_blocks=3)) == 3


def test_what_is_not_decided_needs_one_more_up_to_the_maximum():
    assert blocks_wanted(judged_experiment({"cap1": -0.01}, sd=0.02, num_blocks=3)) == 4
    assert blocks_wanted(judged_experiment({"cap1": -0.01}, sd=0.02, num_blocks=8)) == 8


@pytest.mark.parametrize("leg", ["cap0", "cap1"])
def test_a_leg_that_failed_would_fail_again(leg: str):
    assert blocks_wanted(judged_experiment({}, num_blocks=1, change=state(leg, 1, "failed"))) == 1
    assert blocks_wanted(judged_experiment({}, sd=0.02, num_blocks=3, change=state(leg, 3, "failed"))) == 3


def test_another_leg_that_failed_holds_nothing_up():
    assert blocks_wanted(judged_experiment({}, sd=0.02, num_blocks=3, change=state("cap1.25", 3, "failed"))) == 4


def test_a_block_that_is_not_complete_comes_first():
    assert blocks_wanted(judged_experiment({}, sd=0.02, num_blocks=3, change=state("bf16", 3, "pending"))) == 3


def test_blocks_side_by_side_run_ahead_of_the_complete_ones():
    """Three of five are complete and decide nothing: with two nodes there are two more, with three a third one."""
    pending = [state(leg, block, "pending") for block in (4, 5) for leg in ("cap0", "cap1", "cap1.25", "bf16")]

    def change(trial: TrialSnapshot) -> TrialSnapshot:
        for each in pending:
            trial = each(trial)
        return trial

    undecided = judged_experiment({"cap1": -0.01}, sd=0.02, num_blocks=5, change=change)
    assert [blocks_wanted(undecided, ahead) for ahead in (1, 2, 3, 8)] == [5, 5, 6, 6]
    decided = judged_experiment({"cap1": -0.03}, num_blocks=5, change=change)
    assert blocks_wanted(decided, 3) == 5


def test_a_later_block_that_is_complete_counts_after_the_ones_before():
    """Block 3 alone is missing: two are complete in plan order, so nothing is decided yet."""
    found = judged_experiment({"cap1": -0.03}, num_blocks=4, change=state("bf16", 3, "pending"))
    assert blocks_wanted(found, 2) == 4
    assert blocks_wanted(found, 3) == 5
