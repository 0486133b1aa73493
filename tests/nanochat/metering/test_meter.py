"""What a rank measures in a step, and what comes of it over layers and ranks."""

import time
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat import sizes
from nanochat.config import MoEConfig, RunConfig, TrainConfig, with_overrides
from nanochat.machine.device import open_device
from nanochat.metering.meter import Meter, RankStep, mfu_pct, phase_columns, summarize_router
from nanochat.recipes import d12_moe
from nanochat.stats import PHASES, StepStats

CPU = open_device(RunConfig(device="cpu"), uses_fp8=False)


def _step(router: list[float], **changes: float) -> RankStep:
    numbers = {"dt_ms": 1.0, "loss": 2.0, "last_loss": 2.0, "balance": 4.0, "active": 1.0, "peak_mib": 10.0}
    numbers |= {"compiled_graphs": 0.0, **changes}
    return RankStep(**numbers, phases_ms=[0.0] * len(PHASES), router=router)


def test_a_meter_averages_over_micro_steps_and_keeps_the_last_loss():
    meter = Meter(CPU, num_layers=2, num_stats=4)
    meter.start()
    meter.add(torch.tensor(99.0), torch.tensor(99.0), torch.ones(2, 4))
    meter.start()  # forgets an earlier step
    meter.add(torch.tensor(3.0), torch.tensor(4.0), torch.arange(8.0).view(2, 4))
    meter.add(torch.tensor(5.0), torch.tensor(6.0), torch.zeros(2, 4))
    step = meter.stop(torch.tensor(1.0), num_micro_steps=2, checkpoint_ms=7.0)
    assert (step.loss, step.last_loss, step.balance, step.active) == (4, 5, 5, 1)
    assert step.router == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    assert step.dt_ms > 0
    assert step.phases_ms[-1] == 7
    assert step.peak_mib > 10


def test_an_injected_delay_is_part_of_the_step_and_at_least_its_share():
    meter = Meter(CPU, num_layers=1, num_stats=4)
    meter.start()
    time.sleep(0.02)
    step = meter.stop(torch.tensor(1.0), num_micro_steps=1, checkpoint_ms=0.0, inject_pct=50)
    assert step.dt_ms > step.injected_ms >= 0.49 * (step.dt_ms - step.injected_ms) >= 0.49 * 20
    meter.start()
    assert meter.stop(torch.tensor(1.0), num_micro_steps=1, checkpoint_ms=0.0).injected_ms == 0


@given(st.lists(st.floats(allow_nan=False), min_size=14, max_size=20))
def test_a_ranks_numbers_survive_the_way_over_the_wire(values: list[float]):
    step = RankStep(*values[:7], phases_ms=values[8:14], router=values[14:], injected_ms=values[7])
    assert RankStep.from_floats(step.as_floats()) == step


def test_a_phase_is_told_of_the_rank_that_spent_most_and_of_the_median_rank():
    ranks = [replace(_step([]), phases_ms=[base + i for i in range(6)]) for base in (10.0, 50.0, 20.0)]
    columns = phase_columns(ranks)
    assert (columns["data_ms"], columns["data_median_ms"]) == (50, 20)
    assert (columns["checkpoint_ms"], columns["checkpoint_median_ms"]) == (55, 25)
    assert set(columns) < {field.name for field in fields(StepStats)}
    assert len(columns) == 12


def test_router_statistics_leave_out_layers_without_experts_and_average_over_ranks():
    config = with_overrides(d12_moe(num_steps=1), {"model.depth": 3, "moe.every": 2})
    dense = [0.0] * 4  # dropped, max_vio, dead_experts, lost_tokens
    first = _step([0.1, 1.0, 2.0, 0.01, *dense, 0.3, 3.0, 0.0, 0.03])
    second = _step([0.3, 2.0, 1.0, 0.03, *dense, 0.5, 1.0, 1.0, 0.05])
    summary = summarize_router(config, [first, second])
    assert summary is not None
    assert summary.dropped_pct == pytest.approx(30)
    assert summary.max_vio == pytest.approx(2)
    assert summary.dead_experts == pytest.approx(2)
    assert summary.lost_tokens_pct == pytest.approx(3)
    assert summary.layer_dropped_pct == (20, 40)
    assert summary.layer_max_vio == (1.5, 2)
    assert summary.layer_dead_experts == (1.5, 0.5)
    assert summary.layer_lost_tokens_pct == (2, 4)
    assert (summary.z_loss, summary.largest_router_bias) == (None, None)


def test_z_losses_add_up_over_layers_and_the_largest_bias_is_any_layers():
    options = {"model.depth": 2, "moe.router_z_loss_coeff": 0.001, "moe.router_bias_rate": 0.001}
    usual = [0.0, 1 / 3, 0.0, 0.0]
    summary = summarize_router(
        with_overrides(d12_moe(num_steps=1), options),
        [_step([*usual, 1.0, 0.5, *usual, 2.0, 0.25]), _step([*usual, 3.0, 0.5, *usual, 4.0, 0.25])],
    )
    assert summary is not None
    assert (summary.z_loss, summary.largest_router_bias) == (5, 0.5)
    assert summary.layer_max_vio == (0.3333, 0.3333)


def test_a_model_without_experts_has_no_router_statistics():
    assert summarize_router(TrainConfig(), [_step([0.0] * 4)]) is None


def test_mfu_is_the_reference_formula_and_useful_mfu_leaves_out_dropped_work():
    config = d12_moe(num_steps=1)
    usual, useful = mfu_pct(config, tok_per_sec=785_203, peak_flops=8 * 756e12, dropped_pct=0)
    assert usual == useful == pytest.approx(9.50, abs=0.005)  # a known run of the reference
    _, useful = mfu_pct(config, tok_per_sec=785_203, peak_flops=8 * 756e12, dropped_pct=100)
    no_experts = sizes.flops_per_token(config) - 12 * 2 * 6 * 2 * 2 * 768**2
    assert useful == pytest.approx(usual * no_experts / sizes.flops_per_token(config))


def test_useful_mfu_of_a_dense_model_is_its_mfu():
    usual, useful = mfu_pct(TrainConfig(), tok_per_sec=1e5, peak_flops=1e15, dropped_pct=0)
    assert usual == useful


def test_only_expert_layers_waste_work():
    every_layer = mfu_pct(TrainConfig(moe=MoEConfig(every=1)), 1e5, 1e15, dropped_pct=50)
    every_fourth = mfu_pct(TrainConfig(moe=MoEConfig(every=4)), 1e5, 1e15, dropped_pct=50)
    assert every_layer[0] - every_layer[1] == pytest.approx(4 * (every_fourth[0] - every_fourth[1]))
