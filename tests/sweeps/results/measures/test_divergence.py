"""A leg that runs to its end has not always learnt something."""

import math
from collections.abc import Callable, Sequence

import pytest

from sweeps.records.rows import StepRow
from sweeps.records.steps import Steps
from sweeps.results.measures.divergence import why_diverged

MakeRow = Callable[..., StepRow]


def why(make_row: MakeRow, losses: Sequence[float], *, is_over: bool = True) -> str | None:
    return why_diverged(Steps.of(make_row(s, loss=loss) for s, loss in enumerate(losses)), 10, is_over=is_over)


def test_a_falling_loss_is_no_divergence(make_row: MakeRow) -> None:
    assert why(make_row, [10.0 - s / 10 for s in range(40)]) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("is_over", [True, False])
def test_a_loss_in_the_window_that_is_no_number_is(bad: float, is_over: bool, make_row: MakeRow) -> None:
    losses = [5.0] * 39 + [bad]
    assert why(make_row, losses, is_over=is_over) == "the loss is not a finite number in 1 of the last 10 steps"


def test_one_before_the_window_is_not(make_row: MakeRow) -> None:
    assert why(make_row, [10.0] + [math.nan] * 5 + [5.0] * 34) is None


@pytest.mark.parametrize("last", [9.9993, 10.0, 12.5])
def test_a_loss_no_better_than_at_the_start_is_once_the_leg_is_over(last: float, make_row: MakeRow) -> None:
    losses = [10.0] + [5.0] * 19 + [last] * 20
    told = f"the mean loss of the last 10 steps is {last:.4f}, no better than 10.0000 at the start"
    assert why(make_row, losses) == told
    assert why(make_row, losses, is_over=False) is None


def test_a_small_but_real_fall_is_no_divergence(make_row: MakeRow) -> None:
    assert why(make_row, [10.0] + [9.98] * 39) is None


def test_a_run_of_twenty_steps_is_too_short_to_say(make_row: MakeRow) -> None:
    assert why(make_row, [10.0] * 20) is None
    assert why(make_row, [10.0] * 21) is not None
    assert why(make_row, []) is None
