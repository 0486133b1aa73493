"""A plan promises no tail window that cannot be."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config import MAX_STEPS, with_overrides
from nanochat.metering.step_flags import Flags
from sweeps.smoke import SWEEP as SMOKE
from sweeps.spec import Sweep, TailWindow
from sweeps.spec.counting import countable_steps
from sweeps.spec.errors import SweepError
from sweeps.spec.plan import make_plan
from sweeps.spec.preset import apply_settings

intervals = st.none() | st.integers(1, 50)


def counted_by_the_trainer(num_steps: int, save_every: int | None, eval_every: int | None) -> int:
    """Steps without a flag in a run in which every save is over at once."""
    flags, num_counted = Flags(0), 0
    for step in range(num_steps):
        num_counted += not flags.of_step(step, compiled_graphs=0, skipped=False)
        flags.after(evaluated=bool(eval_every) and (step + 1) % (eval_every or 1) == 0, sampled=False)
        if save_every and (step + 1) % save_every == 0:
            flags.saving()
    return num_counted


@settings(deadline=None)
@given(st.integers(1, 200), intervals, intervals)
def test_as_many_can_count_as_the_trainer_would_leave_unflagged(
    num_steps: int, save_every: int | None, eval_every: int | None
) -> None:
    config = with_overrides(SMOKE.base, {"schedule.num_steps": num_steps, "eval.every": eval_every})
    assert countable_steps(config, save_every) == counted_by_the_trainer(num_steps, save_every, eval_every)


def test_a_run_as_long_as_can_be_is_counted_at_once() -> None:
    config = with_overrides(SMOKE.base, {"schedule.num_steps": MAX_STEPS})
    assert MAX_STEPS // 2 < countable_steps(config, 100) < MAX_STEPS


def of_length(num_steps: int, window: int, **changes: object) -> Sweep:
    base = with_overrides(SMOKE.base, {"schedule.num_steps": num_steps})
    return dataclasses.replace(SMOKE, base=base, window=TailWindow(window), **{"checkpoint_every": None, **changes})


@pytest.mark.parametrize(("num_steps", "window", "most"), [(24, 10, 4), (24, 5, 4), (40, 21, 20), (21, 2, 1)])
def test_a_window_that_cannot_be_filled_is_refused(num_steps: int, window: int, most: int) -> None:
    with pytest.raises(SweepError, match=f"window has {window} steps, but at most {most} of its {num_steps} can count"):
        make_plan(of_length(num_steps, window))


def test_saves_too_often_leave_nothing_to_count() -> None:
    with pytest.raises(SweepError, match="at most 0 of its 40 can count"):
        make_plan(of_length(40, 1, checkpoint_every=1))


@pytest.mark.parametrize(("num_steps", "window"), [(24, 4), (30, 10), (20, 10), (3, 3)])
def test_one_that_can_or_a_run_without_any_timing_is_planned(num_steps: int, window: int) -> None:
    assert make_plan(of_length(num_steps, window)).window_steps == window


@settings(deadline=None)
@given(st.integers(1, 400))
def test_a_shorter_or_longer_run_from_the_command_line_gets_a_window_that_can_be_filled(num_steps: int) -> None:
    plan = make_plan(apply_settings(SMOKE, num_steps=num_steps))
    assert 1 <= plan.window_steps <= 10
