"""Default names of legs: readable, unique, and of characters that a folder can have."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nanochat.recipes import d12_moe
from sweeps.spec import Axis, Control, Sweep, TailWindow
from sweeps.spec.names import MAX_NAME, check_name, moe_leg_name, slug

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1e18, "matrix_lr-1e18"),
        (1e-18, "matrix_lr-1e-18"),
        (-2.5e-07, "matrix_lr--2.5e-07"),
        (1.7976931348623157e308, "matrix_lr-1.7976931348623157e308"),
        (5e-324, "matrix_lr-5e-324"),
        (0.1 + 0.2, "matrix_lr-0.30000000000000004"),
        (None, "matrix_lr-none"),
        (10**18, "matrix_lr-1000000000000000000"),
    ],
)
def test_a_number_in_a_name_keeps_its_sign_and_that_of_its_exponent(value: float | None, name: str) -> None:
    assert slug({"optim.matrix_lr": value}) == name


@given(NUMBERS, NUMBERS)
def test_different_numbers_have_different_names_from_which_they_can_be_read(first: float, second: float) -> None:
    assume(first != second)
    names = [check_name("leg", slug({"optim.matrix_lr": value})) for value in (first, second)]
    assert names[0] != names[1]
    assert [float(name.removeprefix("matrix_lr-")) for name in names] == [first, second]


@given(st.floats(1e-30, 1e30))
def test_the_moe_sweeps_name_any_capacity_factor(factor: float) -> None:
    config = _sweep([Axis("moe.capacity_factor", [factor])]).legs[0].config
    assert re.fullmatch(r"moe_bf16_experts_static_cap\d+(p\d+)?(e-?\d+)?", check_name("leg", moe_leg_name(config)))


def _sweep(axes: list[Axis], *controls: Control) -> Sweep:
    return Sweep(
        name="names",
        base=d12_moe(num_steps=10),
        num_workers=1,
        axes=axes,
        controls=controls,
        baseline={axis.path: axis.values[0] for axis in axes},
        window=TailWindow(num_steps=5),
    )


def test_legs_whose_names_would_be_equal_end_in_a_digest() -> None:
    legs = _sweep([Axis("data.source", ["/A/b", "/a b", None])], Control({"data.source": "x"}, name="source--a-b")).legs
    assert legs[2].name == "source-none"
    assert legs[3].name == "source--a-b", "a name that was given is left alone"
    assert all(re.fullmatch(r"source--a-b-[0-9a-f]{8}", leg.name) for leg in legs[:2])
    assert all(re.fullmatch(re.escape(leg.name) + "-[0-9a-f]{8}", leg.id) for leg in legs)
    assert len({leg.name for leg in legs}) == 4


@given(st.lists(st.text(min_size=1, max_size=300), min_size=2, max_size=4, unique=True))
def test_any_texts_give_unique_names_that_folders_can_have(texts: list[str]) -> None:
    names = [leg.name for leg in _sweep([Axis("data.source", texts)]).legs]
    assert len(set(names)) == len(texts)
    assert all(check_name("leg", name) and len(name) <= MAX_NAME for name in names)
