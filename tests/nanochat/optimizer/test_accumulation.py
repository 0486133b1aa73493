"""Sums of gradients keep their precision, however many micro-steps a rank takes before it updates."""

import math

import pytest
import torch
from torch import Tensor, nn

from nanochat.machine.ranks import Ranks
from nanochat.optimizer.accumulation import MOST_IN_BF16, adds_in_fp32
from nanochat.optimizer.groups import ParamSpec
from nanochat.optimizer.sharded import ShardedOptimizer

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


def _sqnr_db(num_micro_steps: int, gradients: Tensor) -> float:
    """How well the optimizer's buffer holds the sum of bf16 gradients (n, r, c)."""
    torch.manual_seed(1)
    matrix = nn.Parameter(torch.randn(16, 16))
    spec = ParamSpec(name="matrix", param=matrix, kind="muon", lr=0.01)
    in_fp32 = adds_in_fp32(num_micro_steps)
    ShardedOptimizer([spec], ALONE, compute_dtype=torch.bfloat16, grads_in_fp32=in_fp32)
    buffer = matrix.grad
    for gradient in gradients:
        (matrix * gradient).sum().backward()
    assert matrix.dtype == torch.bfloat16
    assert matrix.grad is buffer, "gradients are added in place"
    exact = gradients.double().sum(0)
    assert buffer is not None
    noise = (buffer.double() - exact).norm().item()
    return 20 * math.log10(exact.norm().item() / noise) if noise else math.inf


@pytest.mark.parametrize("num_micro_steps", [1, 4, MOST_IN_BF16 + 1, 128, 512])
@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_a_sum_keeps_44_db(num_micro_steps: int, mean: float) -> None:
    torch.manual_seed(0)
    gradients = (torch.randn(num_micro_steps, 16, 16) + mean).to(torch.bfloat16)
    assert _sqnr_db(num_micro_steps, gradients) > 44


def test_a_gradient_that_is_always_the_same_goes_on_growing() -> None:
    gradients = torch.full((600, 16, 16), 0.01).to(torch.bfloat16)
    assert _sqnr_db(600, gradients) > 60
