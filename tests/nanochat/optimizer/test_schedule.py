"""Schedules at their corners, by hand."""

import pytest

from nanochat.config import ScheduleConfig
from nanochat.optimizer.schedule import (
    batch_lr_scale,
    lr_multiplier,
    muon_momentum,
    weight_decay,
    weight_decay_scale,
    width_lr_scale,
)


def test_learning_rate_rises_stays_and_falls():
    schedule = ScheduleConfig(num_steps=20, warmup_ratio=0.2, warmdown_ratio=0.5, final_lr_frac=0.1)
    seen = [lr_multiplier(step, 20, schedule) for step in range(21)]
    assert seen[:4] == [0.25, 0.5, 0.75, 1.0]
    assert seen[4:11] == [1.0] * 7
    assert seen[15] == pytest.approx(0.55)
    assert seen[20] == pytest.approx(0.1)


def test_the_default_schedule_has_no_warmup_and_falls_over_its_second_half():
    schedule = ScheduleConfig(num_steps=280)
    assert lr_multiplier(0, 280, schedule) == lr_multiplier(140, 280, schedule) == 1.0
    assert lr_multiplier(279, 280, schedule) == pytest.approx(1 / 140)


def test_a_run_without_warmdown_ends_at_full_rate():
    assert lr_multiplier(9, 10, ScheduleConfig(num_steps=10, warmdown_ratio=0.0)) == 1.0


def test_momentum_rises_over_300_steps():
    assert [muon_momentum(s) for s in (0, 150, 300, 1000)] == pytest.approx([0.85, 0.90, 0.95, 0.95])


def test_weight_decay_falls_to_zero():
    assert [weight_decay(s, 100, 0.2) for s in (0, 50, 100)] == pytest.approx([0.2, 0.1, 0.0])


def test_scales_are_one_at_the_reference_and_follow_square_roots():
    assert (batch_lr_scale(2**19), width_lr_scale(768), weight_decay_scale(2**19, 1e9, 1e9)) == (1, 1, 1)
    assert batch_lr_scale(2**21) == 2
    assert width_lr_scale(3072) == 0.5
    assert weight_decay_scale(2**21, 1e9, 4e9) == 0.5
