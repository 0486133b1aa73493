"""A plan is every trial, fully resolved, in order, and survives storage."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config import with_overrides
from sweeps.capacity import SWEEP as CAPACITY
from sweeps.smoke import SWEEP as SMOKE
from sweeps.spec.errors import CorruptData, SweepError
from sweeps.spec.parts import Parallel
from sweeps.spec.plan import choose_legs, grown, make_plan, plan_from_json, plan_to_json
from sweeps.spec.preset import apply_settings


def test_one_block_runs_the_legs_in_the_order_of_the_definition() -> None:
    plan = make_plan(CAPACITY)
    assert [trial.leg for trial in plan.trials] == list(CAPACITY.legs)
    assert [trial.name for trial in plan.trials] == [f"{leg.name}-b1" for leg in CAPACITY.legs]
    assert (plan.num_workers, plan.num_blocks, plan.window_steps) == (8, 1, 50)
    assert plan.baseline.name == "moe_fp8_experts_static_cap0p0"
    assert plan.candidate is not None
    assert plan.candidate.name == "moe_fp8_experts_static_cap1p0"


@settings(max_examples=20)
@given(st.integers(2, 5))
def test_several_blocks_each_run_every_leg_once_in_an_order_of_their_own(num_blocks: int) -> None:
    plan = make_plan(CAPACITY, num_blocks)
    orders = [[t.leg.name for t in plan.trials if t.block == block] for block in range(1, num_blocks + 1)]
    assert [trial.block for trial in plan.trials] == sorted(trial.block for trial in plan.trials)
    assert all(sorted(order) == sorted(leg.name for leg in CAPACITY.legs) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert orders[:2] == [[t.leg.name for t in make_plan(CAPACITY, 2).trials if t.block == b] for b in (1, 2)]


def test_the_order_of_blocks_follows_from_the_seed() -> None:
    other = apply_settings(CAPACITY, sets=["run.seed=7"])
    assert [t.name for t in make_plan(CAPACITY, 3).trials] != [t.name for t in make_plan(other, 3).trials]


def test_a_trial_is_its_leg_with_the_seed_of_its_block_and_the_checkpoints_of_the_sweep() -> None:
    trial = make_plan(CAPACITY, 2).trials[-1]
    assert (trial.block, CAPACITY.base.run.seed) == (2, 42)
    assert trial.config == with_overrides(
        trial.leg.config, {"run.name": trial.name, "run.seed": 44, "run.checkpoint_every": 70}
    )


@given(st.sampled_from([CAPACITY, SMOKE]), st.integers(1, 3))
@settings(max_examples=10)
def test_a_plan_survives_json(sweep: object, num_blocks: int) -> None:
    assert sweep in (CAPACITY, SMOKE)
    plan = make_plan(CAPACITY if sweep is CAPACITY else SMOKE, num_blocks)
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan


@pytest.mark.parametrize("parallel", [None, 1, 7, "auto"])
def test_blocks_at_a_time_survive_json_and_growth(parallel: Parallel) -> None:
    plan = dataclasses.replace(make_plan(SMOKE, 2), parallel=parallel)
    stored = json.loads(json.dumps(plan_to_json(plan)))
    assert plan_from_json(stored) == plan
    assert grown(plan, 3).parallel == parallel
    del stored["parallel"]  # as plans were stored before there was a choice
    assert plan_from_json(stored).parallel is None


@pytest.mark.parametrize("parallel", [0, -1, "all", 1.5, True, []])
def test_blocks_at_a_time_that_cannot_be_are_damage(parallel: object) -> None:
    with pytest.raises(CorruptData):
        plan_from_json(plan_to_json(make_plan(SMOKE)) | {"parallel": parallel})


def test_a_stored_plan_that_is_damaged_is_named_so() -> None:
    stored = plan_to_json(make_plan(SMOKE))
    for damaged in ({}, stored | {"legs": []}, stored | {"extra": 1}, stored | {"trials": [{"leg": "exact"}]}):
        with pytest.raises(CorruptData, match="the stored plan cannot be read"):
            plan_from_json(damaged)


def test_a_batch_that_does_not_divide_over_the_workers_is_refused_before_launch() -> None:
    with pytest.raises(SweepError, match=r"leg moe_fp8_experts_static_cap0p0: .* do not divide over 3 workers"):
        make_plan(apply_settings(CAPACITY, num_workers=3))
    make_plan(apply_settings(CAPACITY, num_workers=2))
    with pytest.raises(SweepError, match="4 micro-batches"):
        make_plan(apply_settings(CAPACITY, sets=["data.total_batch_tokens=65536"]))


def test_there_is_at_least_one_block() -> None:
    with pytest.raises(SweepError, match="at least 1, got 0"):
        make_plan(SMOKE, 0)


def test_chosen_legs_keep_their_trials_and_all_legs_stay_known() -> None:
    plan = make_plan(CAPACITY, 2)
    chosen = choose_legs(plan, ["moe_bf16_experts_static_cap0p0", "moe_fp8_experts_static_cap0p0"])
    assert chosen.legs == plan.legs
    assert [t.name for t in chosen.trials] == [t.name for t in plan.trials if t.leg.name.endswith("static_cap0p0")]
    with pytest.raises(SweepError, match="did you mean moe_fp8_experts_static_cap0p0"):
        choose_legs(plan, ["moe_fp8_expert_static_cap0p0"])


def test_more_trials_than_an_experiment_can_hold_are_refused() -> None:
    with pytest.raises(SweepError, match=r"2000 blocks of 6 legs are 12,000 trials; at most 10,000 fit"):
        make_plan(CAPACITY, 2000)


def test_a_plan_that_grew_equals_one_that_was_planned_so_but_for_the_order_of_a_single_first_block() -> None:
    assert grown(make_plan(CAPACITY, 2), 4) == make_plan(CAPACITY, 4)
    alone = grown(make_plan(CAPACITY), 3)
    assert alone.trials[:6] == make_plan(CAPACITY).trials
    assert alone.trials[6:] == make_plan(CAPACITY, 3).trials[6:]
    assert grown(alone, 2) == alone


def test_a_plan_of_some_legs_grows_by_those_and_none_grows_past_its_maximum() -> None:
    names = [CAPACITY.legs[0].name, CAPACITY.legs[1].name]
    some = grown(choose_legs(make_plan(CAPACITY), names), 2)
    assert sorted(t.leg.name for t in some.trials if t.block == 2) == sorted(names)
    with pytest.raises(SweepError, match="9 blocks are more than the 8 that were fixed at the launch"):
        grown(make_plan(CAPACITY), 9)
    with pytest.raises(SweepError, match="at least 3 blocks"):
        make_plan(CAPACITY, max_blocks=2)
