"""Every moment of a step belongs to one phase."""

import time

import pytest
import torch

from nanochat.metering.phases import PhaseClock
from nanochat.stats import STEP_PHASES


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the clock shows next, one after the other."""
    shown: list[float] = []
    monkeypatch.setattr(time, "perf_counter", lambda: shown.pop(0))
    return shown


def _clock() -> PhaseClock:
    return PhaseClock(torch.device("cpu"))


def _read(clock: PhaseClock) -> dict[str, float]:
    return {name: round(ms) for name, ms in zip(STEP_PHASES, clock.read_ms(), strict=True)}


def test_the_time_between_two_marks_is_the_second_ones(hands: list[float]):
    hands += [1.000, 1.001, 1.003, 1.006]
    clock = _clock()
    clock.start()
    clock.mark("data")
    clock.mark("communication")
    clock.mark("data")
    assert _read(clock) == {"data": 4, "communication": 2, "forward": 0, "backward": 0, "optimizer": 0}


def test_micro_steps_are_split_like_the_last_one(hands: list[float]):
    hands += [1.0, 1.001, 1.010, 1.016, 1.022, 1.025]
    clock = _clock()
    clock.start()
    clock.mark_forward_end()
    clock.mark_micro_step()  # 10 ms
    clock.mark_forward_end()  # halfway
    clock.mark_micro_step()  # 12 ms
    clock.mark("optimizer")
    assert _read(clock) == {"data": 0, "forward": 11, "backward": 11, "optimizer": 3, "communication": 0}


def test_a_new_step_forgets_the_one_before(hands: list[float]):
    hands += [1.0, 2.0, 3.0, 3.005]
    clock = _clock()
    clock.start()
    clock.mark("data")
    clock.start()
    clock.mark("optimizer")
    assert _read(clock)["data"] == 0
    assert _read(clock)["optimizer"] == 5
