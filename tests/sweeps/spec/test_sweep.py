"""A sweep expands to its grid in order, and what cannot be is rejected when it is built."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config import TrainConfig, get_field, with_overrides
from nanochat.recipes import d12_moe, d12_moe_fp8
from sweeps.capacity import SWEEP as CAPACITY
from sweeps.spec import Axis, Control, Gate, Sweep, TailWindow
from sweeps.spec.errors import SweepError
from sweeps.spec.find import load_sweep
from sweeps.spec.legs import difference, grid
from sweeps.spec.names import moe_leg_name, slug

AXES = {
    "compile.mode": ["static", "dynamic", "none"],
    "moe.capacity_factor": [None, 1.0, 1.25],
    "moe.top_k": [1, 2],
    "data.device_batch_size": [1, 2, 4],
}


def small(**changes: Any) -> Sweep:
    parts: dict[str, Any] = {
        "name": "small",
        "base": d12_moe_fp8(num_steps=100),
        "num_workers": 1,
        "axes": [Axis("compile.mode", ["static", "none"]), Axis("moe.top_k", [1, 2])],
        "baseline": {"compile.mode": "static", "moe.top_k": 1},
        "window": TailWindow(num_steps=50),
    }
    return Sweep(**(parts | changes))


@st.composite
def axis_lists(draw: st.DrawFn) -> list[Axis]:
    paths = draw(st.lists(st.sampled_from(sorted(AXES)), unique=True))
    values = [st.lists(st.sampled_from(AXES[path]), min_size=1, unique=True) for path in paths]
    return [Axis(path, draw(some)) for path, some in zip(paths, values, strict=True)]


@given(axis_lists())
def test_the_grid_is_the_product_with_the_last_axis_fastest(axes: list[Axis]) -> None:
    points = [tuple(point.values()) for point in grid(axes)]
    assert points == list(itertools.product(*(axis.values for axis in axes)))


@given(axis_lists(), st.data())
def test_only_keeps_some_points_in_grid_order(axes: list[Axis], data: st.DataObject) -> None:
    everything = [tuple(point.values()) for point in grid(axes)]
    some = data.draw(st.lists(st.sampled_from(everything), unique=True))
    kept = [tuple(point.values()) for point in grid(axes, some)]
    assert kept == [point for point in everything if point in some]


@given(axis_lists())
def test_every_leg_is_the_base_with_its_overrides_and_no_two_are_equal(axes: list[Axis]) -> None:
    sweep = small(axes=axes, baseline={axis.path: axis.values[0] for axis in axes})
    for leg in sweep.legs:
        assert leg.config == with_overrides(sweep.base, leg.overrides)
        assert difference(leg.config, sweep.base).items() <= leg.overrides.items()
    assert len({leg.id for leg in sweep.legs}) == len({leg.name for leg in sweep.legs}) == len(sweep.legs)
    assert [leg.role for leg in sweep.legs].count("baseline") == 1


def test_capacity_has_its_five_legs_and_one_control_by_name_and_order() -> None:
    assert [(leg.name, leg.role) for leg in CAPACITY.legs] == [
        ("moe_fp8_experts_static_cap0p0", "baseline"),
        ("moe_fp8_experts_static_cap1p0", "candidate"),
        ("moe_fp8_experts_static_cap1p25", "grid"),
        ("moe_fp8_experts_dynamic_cap1p0", "grid"),
        ("moe_fp8_experts_nocompile_cap1p0", "grid"),
        ("moe_bf16_experts_static_cap0p0", "control"),
    ]
    assert CAPACITY.base.data.total_batch_tokens is None
    assert (CAPACITY.num_workers, CAPACITY.checkpoint_every, CAPACITY.window) == (8, 70, TailWindow(50))


def test_the_control_of_capacity_has_no_fp8_anywhere() -> None:
    control = CAPACITY.legs[-1].config
    assert (control.precision.linears, control.precision.experts) == ("bf16", "bf16")
    assert (control.compile.mode, get_field(control, "moe.capacity_factor")) == ("static", None)


def test_a_leg_id_is_its_name_and_eight_hex_of_what_differs_from_the_base() -> None:
    same, other = small().legs[1], small(base=d12_moe_fp8(num_steps=80)).legs[1]
    assert same.id == other.id
    assert same.id.startswith(f"{same.name}-")
    assert len(same.id) == len(same.name) + 9


def test_names_follow_from_the_axes_unless_the_sweep_names_them() -> None:
    assert small().legs[0].name == "mode-static_top_k-1"
    assert slug({}) == "base"
    dense = with_overrides(TrainConfig(), {"compile.mode": "none"})
    assert moe_leg_name(dense) == "dense_bf16_nocompile"
    named = small(controls=[Control({"precision.experts": "bf16"}, name="bf16-experts")])
    assert named.legs[-1].name == "bf16-experts"


def test_a_sweep_without_axes_is_one_leg() -> None:
    assert [leg.name for leg in small(axes=[], baseline={}).legs] == ["base"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a/b"}, "sweep 'a/b' cannot name a folder"),
        ({"num_workers": 0}, "num_workers must be a whole number from 1 on, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a whole number from 1 on, got 0"),
        ({"axes": [Axis("moe.top_k", [1]), Axis("moe.top_k", [2])]}, "two axes on moe.top_k"),
        ({"axes": [Axis("moe.top_k", [1, 9])], "baseline": {"moe.top_k": 1}}, "moe.top_k 9 exceeds moe.num_experts 8"),
        ({"axes": [Axis("moe.top_k", ["1"])], "baseline": {"moe.top_k": "1"}}, "moe.top_k must be int, got '1'"),
        ({"only": [("static", 3)]}, "('static', 3), which is no point of the grid (compile.mode, moe.top_k)"),
        ({"only": [("statc", 1)]}, "axis compile.mode has no value 'statc'; did you mean 'static'?"),
        ({"only": [("static",)]}, "it has 1 values for 2 axes"),
        ({"only": [("static", 1), ("static", 1)]}, "twice"),
        (
            {"candidate": {"moe.topk": 2}},
            "candidate names 'moe.topk', which is not an axis of this sweep; did you mean",
        ),
        ({"baseline": {"compile.mode": "static", "moe.top_k": 3}}, "axis moe.top_k has no value 3"),
        ({"only": [("none", 1)]}, "it means 0; `only` leaves it out"),
        ({"num_workers": 2.0}, "num_workers must be a whole number from 1 on, got 2.0"),
        ({"num_workers": 2**63}, "num_workers must be a whole number from 1 on, got 9223372036854775808"),
        ({"baseline": {"compile.mode": "static"}}, "must mean exactly one leg of the grid, it means 2"),
        (
            {"baseline": {"compile.mod": "static"}},
            "not an axis of this sweep; did you mean compile.mode?; axes: compile.mode",
        ),
        ({"candidate": {"compile.mode": "static", "moe.top_k": 1}}, "is the baseline itself"),
        ({"gates": [Gate("loss", at_most=1.1)]}, "needs a candidate"),
        ({"controls": [Control({"moe.top_k": 1})]}, "are the same run"),
        ({"leg_name": lambda config: "same"}, "two legs are named same"),
        ({"leg_name": lambda config: "../up"}, "cannot name a folder"),
        ({"leg_name": lambda config: {}[config.model.depth]}, "leg_name raised KeyError: "),
        ({"parallel": 0}, "parallel (unless it is 'auto') must be a whole number from 1 on, got 0"),
        ({"parallel": "all"}, "parallel (unless it is 'auto') must be a whole number from 1 on, got 'all'"),
        ({"parallel": True}, "parallel (unless it is 'auto') must be a whole number from 1 on, got True"),
        ({"window": TailWindow(num_steps=101)}, "window of 101 steps is longer than leg"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SweepError) as caught:
        small(**changes)
    assert words in str(caught.value)


def test_a_gate_names_a_metric_and_a_leg_that_exist() -> None:
    candidate = {"compile.mode": "none", "moe.top_k": 1}
    small(candidate=candidate, gates=[Gate("loss", at_most=1.1, versus="mode-static_top_k-2")])
    with pytest.raises(SweepError, match="which is no leg; did you mean mode-static_top_k-2"):
        small(candidate=candidate, gates=[Gate("loss", at_most=1.1, versus="mode-static_topk-2")])
    with pytest.raises(SweepError, match="did you mean peak_mib"):
        Gate("peak_mb", at_most=1.0)
    with pytest.raises(SweepError, match="exactly one of improves=LEG"):
        Gate("loss")
    with pytest.raises(SweepError, match="finite number"):
        Gate("loss", at_most=float("nan"))
    with pytest.raises(SweepError, match="positive ratio"):
        Gate("loss", at_most=0.0)


@pytest.mark.parametrize("path", ["run.name", "run.seed", "run.checkpoint_every"])
def test_what_the_plan_decides_cannot_be_an_axis_or_a_control(path: str) -> None:
    with pytest.raises(SweepError, match="cannot differ between legs"):
        Axis(path, [1])
    with pytest.raises(SweepError, match="cannot differ between legs"):
        Control({path: 1})


def test_an_axis_has_known_distinct_values_and_a_known_path() -> None:
    with pytest.raises(SweepError, match=r"did you mean moe\.capacity_factor\?"):
        Axis("moe.capacity_facto", [1.0])
    with pytest.raises(SweepError, match="at least one value"):
        Axis("moe.top_k", [])
    with pytest.raises(SweepError, match="at least one value"):
        Axis("compile.mode", "static")
    with pytest.raises(SweepError, match="lists 1 twice"):
        Axis("moe.top_k", [1, 1])
    with pytest.raises(SweepError, match="num_steps must be a whole number from 1 on, got 0"):
        TailWindow(0)


@pytest.mark.parametrize(
    ("linears", "experts", "roles"),
    [
        ("bf16", "bf16", "bf16_experts"),
        ("fp8", "fp8", "fp8_experts"),
        ("fp8", "bf16", "fp8_linears"),
        ("bf16", "fp8", "fp8_experts_only"),
        ("fp8_head", "bf16", "fp8_head"),
        ("fp8_attention", "fp8", "fp8_attention_experts"),
    ],
)
def test_a_leg_is_named_after_the_roles_that_run_in_fp8(linears: str, experts: str, roles: str) -> None:
    config = with_overrides(d12_moe(8), {"precision.linears": linears, "precision.experts": experts})
    assert moe_leg_name(config) == f"moe_{roles}_static_cap0p0"


def test_the_compile_mode_ablation_has_the_legs_of_the_earlier_one_in_order() -> None:
    names = [leg.name.removeprefix("moe_").removesuffix("_cap0p0") for leg in load_sweep("compile_modes").legs]
    assert names == [
        *(f"bf16_experts_{mode}" for mode in ("static", "dynamic", "nocompile")),
        *(f"fp8_linears_{mode}" for mode in ("static", "dynamic")),
        *(f"fp8_experts_{mode}" for mode in ("static", "dynamic", "nocompile")),
    ]
