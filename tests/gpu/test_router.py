"""The routers' options on a GPU: loads survive recorded micro-steps, and every compile mode trains alike."""

from typing import Any

import pytest
import torch

from nanochat.config import TrainConfig
from nanochat.loop.setup import prepare
from nanochat.loop.stepping import Stepper
from nanochat.stats import Hooks, StepStats
from nanochat.train import train
from tests.helpers.configs import card_config

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("fresh_process")]
ROUTER = {"moe.router_bias_rate": 0.01, "moe.router_z_loss_coeff": 0.001}
NUM_ASSIGNMENTS = 1024 * 2  # of a micro-step in each layer


def _config(**overrides: Any) -> TrainConfig:
    return card_config(**(ROUTER | {"compile.mode": "static"} | overrides))


def _hooks(rows: list[StepStats]) -> Hooks:
    return Hooks(on_step=rows.append)


@pytest.mark.parametrize("mode", ["none", "static"])
def test_loads_are_counted_in_replayed_micro_steps_and_move_the_biases_in_place(mode: str):
    run = prepare(_config(**{"compile.mode": mode, "moe.capacity_factor": 1.0}), _hooks([]))
    routers = [*run.model.routers().values()]
    places = [[buffer.data_ptr() for buffer in router.buffers()] for router in routers]
    stepper = Stepper(run)
    for step in range(3):
        stepper(step)  # from the third micro-step on they are replayed
    assert stepper.recorded is not None
    for _ in range(3):
        stepper.recorded(*run.feed.next())
    run.feed.close()
    assert [[buffer.data_ptr() for buffer in router.buffers()] for router in routers] == places
    for router in routers:
        assert router.bias is not None
        assert router.loads is not None
        assert router.loads.sum().item() == 3 * NUM_ASSIGNMENTS
        steps = (router.bias / 0.01).round()
        torch.testing.assert_close(router.bias, steps * 0.01)
        assert 1 <= steps.abs().max() <= 3


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize(
    "options",
    [{}, {"moe.capacity_factor": 1.0, "precision.linears": "fp8", "precision.experts": "fp8"}],
    ids=["exact", "fp8"],
)
def test_compiled_runs_with_bias_and_z_loss_train_like_uncompiled_ones(mode: str, options: dict[str, Any]):
    rows: list[StepStats] = []
    plain: list[StepStats] = []
    train(_config(**options, **{"compile.mode": mode}), _hooks(rows))
    train(_config(**options, **{"compile.mode": "none"}), _hooks(plain))
    assert [row.loss for row in rows] == pytest.approx([row.loss for row in plain], abs=0.03)
    assert [row.z_loss for row in rows] == pytest.approx([row.z_loss for row in plain], rel=0.02)
    largest = [row.largest_router_bias for row in rows]
    assert largest[0] == 0
    assert all(bias is not None and 0 < bias < 0.06 for bias in largest[1:])


def test_a_deterministic_run_with_a_bias_repeats_bit_for_bit():
    losses: list[list[float]] = []
    for _ in range(2):
        rows: list[StepStats] = []
        torch.compiler.reset()
        train(_config(**{"run.deterministic": True, "moe.capacity_factor": 1.0}), _hooks(rows))
        losses.append([row.loss for row in rows])
    assert losses[0] == losses[1]
