"""A calibration's plan: one leg twice in every block, equal but for their names and an injected delay."""

import math

import pytest

from nanochat.config import digest, with_overrides
from sweeps.smoke import SWEEP
from sweeps.spec.errors import SweepError
from sweeps.spec.plan import plan_from_json, plan_to_json
from sweeps.spec.twins import twin_plan


def test_twins_are_one_config_under_two_names_and_survive_storage():
    plan = twin_plan(SWEEP, None, 4, 8, 0.0)
    assert [(leg.name, leg.role) for leg in plan.legs] == [("exact", "baseline"), ("exact-twin", "candidate")]
    assert digest(plan.legs[0].config) == digest(plan.legs[1].config)
    assert (len(plan.trials), plan.gates) == (8, ())
    assert plan_from_json(plan_to_json(plan)) == plan
    same_block = [t.config for t in plan.trials if t.block == 2]
    assert with_overrides(same_block[0], {"run.name": "x"}) == with_overrides(same_block[1], {"run.name": "x"})


def test_an_injected_delay_is_in_the_second_twins_config_alone():
    plan = twin_plan(SWEEP, "capped", 3, 8, 1.0)
    assert [leg.config.run.inject_pct for leg in plan.legs] == [0.0, 1.0]
    assert plan.legs[0].config.moe is not None
    assert plan.legs[0].config.moe.capacity_factor == 1.0
    assert plan.question == "Is a delay of 1 % found in capped?"


@pytest.mark.parametrize(
    ("leg", "blocks", "pct", "message"),
    [
        ("exct", 3, 0.0, "did you mean exact"),
        (None, 0, 0.0, "at least 1"),
        (None, 3, -1.0, "inject_pct must be from 0"),
        (None, 3, math.nan, "inject_pct"),
        (None, 3, 1e9, "inject_pct must be from 0"),
    ],
)
def test_what_cannot_be_is_rejected(leg: str | None, blocks: int, pct: float, message: str):
    with pytest.raises(SweepError, match=message):
        twin_plan(SWEEP, leg, blocks, 8, pct)
