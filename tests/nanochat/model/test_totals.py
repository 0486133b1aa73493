"""A model that adds weight gradients where they are made gets those that autograd would have added, in every dtype."""

from dataclasses import replace

import pytest
import torch

from nanochat.config import TrainConfig
from nanochat.loop.parameters import param_specs
from nanochat.machine.ranks import Ranks
from nanochat.model.gpt import GPT
from nanochat.model.kernel_choice import Kernels
from nanochat.optimizer.sharded import ShardedOptimizer
from tests.helpers.configs import tiny_config

OWN = Kernels(products="torch", own=True)


def _gradients(config: TrainConfig, dtype: torch.dtype, *, in_products: bool, in_fp32: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    model = GPT(config, "sdpa", OWN)
    model.initialize(cpu, dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    specs = param_specs(model, config.optim, 512)
    ShardedOptimizer(specs, Ranks.from_environment(cpu), compute_dtype=dtype, grads_in_fp32=in_fp32)
    if in_products:
        model.add_in_products()
    for seed in (1, 2):
        torch.manual_seed(seed)
        ids, targets = torch.randint(0, 300, (2, 2, 32))
        losses, of_routers, _ = model(ids, targets)
        (losses.mean() + 0.01 * of_routers.balance).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("in_fp32", [False, True])
@pytest.mark.parametrize("has_experts", [False, True])
def test_two_micro_steps(has_experts: bool, in_fp32: bool) -> None:
    config = tiny_config()
    if not has_experts:
        config = replace(config, moe=None, precision=replace(config.precision, experts="bf16"))
    dtype = torch.float32
    ours, wanted = (_gradients(config, dtype, in_products=own, in_fp32=in_fp32) for own in (True, False))
    assert ours.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
