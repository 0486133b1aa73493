"""A leg can replace a whole section of the config: a dense model beside models with experts."""

import json
from typing import Any

import pytest

from nanochat.config import MoEConfig, OptimConfig, PrecisionConfig, digest, get_field, with_overrides
from nanochat.flags import parse_flags
from nanochat.recipes import d12_moe_fp8
from sweeps.spec import Axis, Control, Sweep, TailWindow
from sweeps.spec.commands import torchrun_argv
from sweeps.spec.errors import SweepError
from sweeps.spec.plan import make_plan, plan_from_json, plan_to_json
from sweeps.spec.preset import apply_preset, apply_settings

MANY = MoEConfig(num_experts=16, top_k=1)


def _sweep(**changes: Any) -> Sweep:
    parts: dict[str, Any] = {
        "name": "dense-or-not",
        "base": d12_moe_fp8(num_steps=100),
        "num_workers": 1,
        "axes": [Axis("moe", [None, MoEConfig(), MANY])],
        "controls": [Control({"moe": None, "precision": PrecisionConfig()})],
        "baseline": {"moe": None},
        "candidate": {"moe": MANY},
        "window": TailWindow(num_steps=50),
    }
    return Sweep(**(parts | changes))


def test_an_axis_over_a_section_puts_a_dense_model_beside_experts() -> None:
    dense, some, many, control = _sweep().legs
    assert [leg.name for leg in (dense, some, many)] == ["moe-none", "moe-default", "moe-num_experts-16-top_k-1"]
    assert [leg.role for leg in (dense, some, many, control)] == ["baseline", "grid", "candidate", "control"]
    assert (dense.config.moe, some.config.moe, many.config.moe) == (None, MoEConfig(), MANY)
    assert control.name == "moe-none_precision-default"
    assert control.config.precision == PrecisionConfig()


def test_without_experts_none_are_in_fp8_and_the_rest_stays_as_it_is() -> None:
    control = _sweep(axes=[], baseline={}, candidate=None, controls=[Control({"moe": None})]).legs[1]
    assert control.name == "moe-none"
    assert control.config.precision == PrecisionConfig(linears="fp8")
    with pytest.raises(SweepError, match=r"precision\.experts is 'fp8' but the model has no experts"):
        _sweep(controls=[Control({"moe": None, "precision.experts": "fp8"})])


def test_overrides_are_plain_and_mean_the_same_config() -> None:
    for leg in _sweep().legs:
        assert json.loads(json.dumps(leg.overrides)) == leg.overrides
        assert with_overrides(_sweep().base, leg.overrides) == leg.config
        assert leg.id.startswith(f"{leg.name}-")
    assert len({digest(leg.config) for leg in _sweep().legs}) == 4


def test_fields_change_the_section_that_a_leg_puts_in() -> None:
    axes = [Axis("moe", [None, {"num_experts": 4}]), Axis("moe.capacity_factor", [None, 1.0])]
    points = [(None, None), ({"num_experts": 4}, None), ({"num_experts": 4}, 1.0)]
    sweep = _sweep(axes=axes, only=points, baseline={"moe": None}, candidate=None, controls=[])
    assert [leg.config.moe for leg in sweep.legs] == [
        None,
        MoEConfig(num_experts=4),
        MoEConfig(num_experts=4, capacity_factor=1.0),
    ]
    with pytest.raises(SweepError, match=r"moe\.capacity_factor cannot be set: this config has no moe section"):
        _sweep(axes=axes, baseline={"moe": None, "moe.capacity_factor": 1.0}, candidate=None, controls=[])


def test_a_sections_leg_survives_storage_with_its_name_and_config() -> None:
    plan = make_plan(_sweep(), num_blocks=2)
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan
    assert {get_field(t.config, "moe.num_experts") for t in plan.trials} == {None, 8, 16}


def test_the_command_of_a_sections_leg_means_its_config() -> None:
    for leg in _sweep(controls=[Control({"optim": OptimConfig(matrix_lr=0.1)})]).legs:
        words = torchrun_argv(leg, 1)
        config, _ = parse_flags(words[words.index("--") + 1 :])
        assert ("--use-moe" in words) == (leg.config.moe is not None)
        assert (config.moe, config.precision, config.optim) == (leg.config.moe, leg.config.precision, leg.config.optim)


def test_presets_and_settings_keep_the_sections_of_the_legs() -> None:
    tiny = apply_settings(apply_preset(_sweep(), "tiny"), sets=["optim.weight_decay=0.1"])
    assert [leg.config.moe for leg in tiny.legs] == [leg.config.moe for leg in _sweep().legs]
    with pytest.raises(SweepError, match=r"--set moe\.top_k has no effect: moe is an axis of this sweep"):
        apply_settings(_sweep(), sets=["moe.top_k=1"])


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"controls": [Control({"model": None})]}, "model must be a ModelConfig, got None"),
        ({"controls": [Control({"moe": 8})]}, "leg moe-8: moe must be a MoEConfig or None, got 8"),
        ({"controls": [Control({"moe": {"num_expert": 8}})]}, "did you mean moe.num_experts?"),
        ({"baseline": {"moe": MoEConfig(num_experts=3)}}, "baseline is no leg of the grid; axis moe has no value"),
        ({"baseline": {"mo": None}}, "'mo', which is not an axis of this sweep"),
    ],
)
def test_a_section_that_cannot_be_is_refused(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(SweepError) as caught:
        _sweep(**parts)
    assert words in str(caught.value)


def test_a_section_that_the_plan_fills_cannot_differ() -> None:
    with pytest.raises(SweepError, match=r"run\.name cannot differ between legs"):
        Control({"run": None})
    with pytest.raises(SweepError, match="unknown config field 'mo'; did you mean moe"):
        Axis("mo", [None])
