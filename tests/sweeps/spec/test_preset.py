"""A preset and settings change a sweep's size, never its grid."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.recipes import shrink_to_tiny
from sweeps.capacity import SWEEP as CAPACITY
from sweeps.spec import TailWindow
from sweeps.spec.errors import SweepError
from sweeps.spec.preset import apply_preset, apply_settings, parse_sets, scaled_interval, steps_of_a_save


def test_tiny_shrinks_the_base_and_keeps_every_leg() -> None:
    tiny = apply_preset(CAPACITY, "tiny")
    assert tiny.base == shrink_to_tiny(CAPACITY.base)
    assert (tiny.num_workers, tiny.checkpoint_every, tiny.window) == (2, 20, TailWindow(10))
    assert [(leg.id, leg.role, leg.overrides) for leg in tiny.legs] == [
        (leg.id, leg.role, leg.overrides) for leg in CAPACITY.legs
    ]


def test_no_preset_is_the_sweep_itself_and_an_unknown_one_is_refused() -> None:
    assert apply_preset(CAPACITY, None) is CAPACITY
    with pytest.raises(SweepError, match="unknown preset 'tinny'; did you mean tiny"):
        apply_preset(CAPACITY, "tinny")


def test_no_settings_change_nothing() -> None:
    assert apply_settings(CAPACITY) == CAPACITY


def test_the_number_of_workers_leaves_the_batch_alone() -> None:
    two = apply_settings(CAPACITY, num_workers=2)
    assert two == dataclasses.replace(CAPACITY, num_workers=2)


def test_the_window_and_the_checkpoints_follow_the_number_of_steps() -> None:
    short = apply_settings(CAPACITY, num_steps=80)
    assert {leg.config.schedule.num_steps for leg in short.legs} == {80}
    assert (short.window, short.checkpoint_every) == (TailWindow(20), 80)  # 4.2 GiB are written until the end
    long = apply_settings(CAPACITY, sets=["schedule.num_steps=560"])
    assert (long.window, long.checkpoint_every) == (TailWindow(50), 140)
    own = apply_settings(CAPACITY, num_steps=80, sets=["run.checkpoint_every=33"])
    assert own.checkpoint_every == 33


@given(
    st.integers(1, 100),
    st.none() | st.integers(100, 300),
    st.integers(1, 1000),
    st.integers(1, 100),
    st.integers(1, 60),
)
def test_no_scaled_checkpoint_falls_inside_the_tail_window_or_in_the_steps_before_it_that_a_save_takes(
    every: int, old_steps: int | None, new_steps: int, window: int, save_steps: int
) -> None:
    window = min(window, max(1, new_steps // 4))
    interval = scaled_interval(every, old_steps, new_steps, window, save_steps)
    assert interval is not None
    too_late = range(new_steps - window - save_steps + 1, new_steps)  # after so many steps
    assert not [done for done in too_late if done > 0 and done % interval == 0]


@given(st.integers(1, 140), st.integers(4, 2000))
def test_a_small_sweep_that_saves_still_does_so_at_another_length(every: int, new_steps: int) -> None:
    window = min(50, new_steps // 4)
    interval = scaled_interval(every, 280, new_steps, window, min(window, 20))
    assert interval is not None
    assert interval < new_steps


@given(st.integers(1, 300), st.integers(2, 400), st.integers(1, 400))
def test_the_interval_is_the_nearest_that_has_no_late_save(every: int, new_steps: int, window: int) -> None:
    latest = new_steps - window - min(window, 20)
    allowed = [i for i in range(1, new_steps) if (new_steps - 1) // i * i <= latest]
    found = scaled_interval(every, None, new_steps, window, min(window, 20))
    assert found == (every if every >= new_steps else min(allowed, key=lambda i: abs(i - every), default=new_steps))


def test_the_interval_of_a_very_long_run_is_found_at_once() -> None:
    assert scaled_interval(140, 280, 10**20, 50, 20) == 5 * 10**19


def test_the_same_length_keeps_the_interval() -> None:
    assert apply_settings(CAPACITY, num_steps=280) == CAPACITY


def test_a_sweep_without_checkpoints_has_none_at_any_length() -> None:
    assert scaled_interval(None, 280, 80, 20, 20) is None


def test_a_large_checkpoint_is_written_for_longer_and_a_small_one_for_no_longer_than_a_window() -> None:
    assert steps_of_a_save(CAPACITY.base, 10) == steps_of_a_save(CAPACITY.base, 50) > 40
    tiny = apply_preset(CAPACITY, "tiny")
    assert [steps_of_a_save(tiny.base, window) for window in (10, 50)] == [10, 20]
    assert apply_settings(tiny, num_steps=80).checkpoint_every == 40


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("data.total_batch_tokens=65536", 65536),
        ("data.total_batch_tokens=None", None),
        ("compile.mode=none", "none"),
        ("compile.mode='static'", "static"),
        ("data.source=2024", "2024"),
        ("data.source=None", None),
        ("data.source=/a=b", "/a=b"),
        ("run.deterministic=True", True),
        ("optim.matrix_lr = 1e-2", 0.01),
    ],
)
def test_values_are_python_literals_or_stand_for_themselves(text: str, value: Any) -> None:
    assert list(parse_sets([text]).values()) == [value]


def test_a_setting_can_be_repeated_with_its_value() -> None:
    assert parse_sets(["moe.top_k=1", "moe.top_k = 1", "optim.matrix_lr=.5", "optim.matrix_lr=5e-1"]) == {
        "moe.top_k": 1,
        "optim.matrix_lr": 0.5,
    }


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["moe.num_expert=4"], "did you mean moe.num_experts?"),
        (["moe.num_experts"], "not of the form field=value"),
        (["moe.num_experts=four"], "moe.num_experts must be int, got 'four'"),
        (["moe.num_experts=1"], "moe.top_k 2 exceeds moe.num_experts 1"),
        (["moe.capacity_factor=2.0"], "moe.capacity_factor is an axis of this sweep"),
        (["run.name=x"], "named after its trial"),
        (["moe.num_experts=4", "moe.num_experts=8"], "names moe.num_experts twice, as 4 and as 8; give it once"),
        (["schedule.num_steps=9"], "--num-steps 80 and --set schedule.num_steps=9 disagree; give one of them"),
        (["optim.matrix_lr=1e400"], "optim.matrix_lr must be a finite float, got inf"),
        (["optim.matrix_lr=nan"], "optim.matrix_lr must be float, got 'nan'"),
        (["run.seed=" + "9" * 5000], "run.seed must be int, got '99999"),
        (["run.seed=9223372036854775808"], "run.seed must be an int of at most 64 bits"),
        (["model.depth=10001"], "model.depth must be at most 10,000, got 10,001"),
        (["data.total_batch_tokens=100"], "no multiple of one micro-batch"),
        (["run.checkpoint_every=0"], "checkpoint_every must be positive"),
        (["run.checkpoint_every=soon"], "run.checkpoint_every must be int or None, got 'soon'"),
    ],
)
def test_a_setting_is_checked_like_the_sweep_file(sets: list[str], words: str) -> None:
    with pytest.raises(SweepError) as caught:
        apply_settings(CAPACITY, num_steps=80, sets=sets)
    assert words in str(caught.value)
