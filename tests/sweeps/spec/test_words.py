"""Numbers as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.spec.words import counted, fixed, grouped, percent_change


def test_one_is_singular() -> None:
    assert [counted(n, "leg") for n in (0, 1, 2, 1000)] == ["0 legs", "1 leg", "2 legs", "1,000 legs"]


def test_a_ratio_reads_as_a_change_in_percent() -> None:
    shown = [percent_change(r) for r in (1.157, 1.0, 2.28, 0.9, 1.0012)]
    assert shown == ["+15.7 %", "0 %", "+128 %", "\N{MINUS SIGN}10.0 %", "+0.12 %"]


@pytest.mark.parametrize("ratio", [0.99999999, 1.00000001, 1.0])
def test_a_change_too_small_to_show_has_no_sign(ratio: float) -> None:
    assert percent_change(ratio) == "0 %"


@given(st.floats(), st.integers(0, 6))
def test_any_number_has_a_short_text_and_zero_has_no_sign(value: float, digits: int) -> None:
    text = fixed(value, digits)
    assert len(text) <= 24
    assert not text.startswith("-") or text == "-inf" or float(text) < 0
    if math.isfinite(value) and abs(value) < 1e15:
        assert float(text) == pytest.approx(value, abs=0.5001 * 10.0**-digits)


def test_thousands_are_separated_unless_the_number_is_too_long() -> None:
    shown = [grouped(v, d) for v, d in ((412345.6, 0), (1234.5, 2), (-0.001, 1), (1e300, 0), (math.nan, 2))]
    assert shown == ["412,346", "1,234.50", "0.0", "1e+300", "nan"]


@given(st.floats(min_value=0))
def test_any_ratio_can_be_shown(ratio: float) -> None:
    assert percent_change(ratio).endswith(" %")
