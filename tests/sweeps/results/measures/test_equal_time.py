"""Loss at equal training time: the faster leg has taken more steps by then, and compiling costs nobody anything."""

import dataclasses

import pytest

from sweeps.records.steps import Steps
from sweeps.results.measures.equal_time import loss_ratio_at_equal_time
from sweeps.results.measures.snapshot import TrialSnapshot
from tests.helpers.judged import judged_experiment
from tests.helpers.rows import row


def trial(dt_ms: float, first_ms: float | None = None, start: float = 8.0) -> TrialSnapshot:
    """40 steps with a loss that falls by 0.1 a step; the first one compiles if it has a time of its own."""
    rows = [
        row(
            s,
            loss=start - 0.1 * s,
            dt_ms=first_ms if first_ms is not None and s == 0 else dt_ms,
            compiled_graphs=int(first_ms is not None and s == 0),
        )
        for s in range(40)
    ]
    return dataclasses.replace(judged_experiment({}, num_blocks=1).trials[0], steps=Steps.of(rows))


def test_after_equal_time_the_faster_leg_has_learnt_more():
    """When the fast one ends after 40 steps of 100 ms, the slow one has taken 20."""
    fast, slow = trial(100.0), trial(200.0)
    mine, theirs = 8 - 0.1 * 34.5, 8 - 0.1 * 14.5  # means over the last 10 steps
    assert loss_ratio_at_equal_time(fast, slow) == pytest.approx(mine / theirs)
    assert loss_ratio_at_equal_time(slow, fast) == pytest.approx(theirs / mine)
    assert loss_ratio_at_equal_time(fast, fast) == 1


def test_compilation_is_left_out():
    assert loss_ratio_at_equal_time(trial(100.0, first_ms=90_000.0), trial(100.0)) == pytest.approx(1)


def test_before_any_whole_window_it_takes_what_there_is():
    assert loss_ratio_at_equal_time(trial(100.0), trial(100_000.0)) == pytest.approx((8 - 3.45) / 8)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 0.0, -1.0])
def test_what_is_no_number_has_no_ratio(broken: float):
    steps = [row(s, dt_ms=broken if s == 30 else 100.0) for s in range(40)]
    bad = dataclasses.replace(trial(100.0), steps=Steps.of(steps))
    assert loss_ratio_at_equal_time(bad, trial(100.0)) is None
    lost = dataclasses.replace(trial(100.0), steps=Steps.of([row(s, loss=broken) for s in range(40)]))
    assert loss_ratio_at_equal_time(trial(100.0), lost) is None
    nothing = dataclasses.replace(trial(100.0), steps=Steps())
    assert loss_ratio_at_equal_time(nothing, trial(100.0)) is None
