"""Where a GPU's kernels cannot be compiled, the run says so, or goes on as an uncompiled one."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat import gpt
from nanochat.compile_failures import CompileError
from nanochat.config import TrainConfig, with_overrides
from nanochat.recipes import d12_moe_fp8
from nanochat.stats import Hooks, StepStats
from nanochat.train import train

pytestmark = pytest.mark.gpu
REAL_NORM = gpt.norm


@torch.library.custom_op("nanochat_gpu_test::norm", mutates_args=())
def norm_of_unknown_shape(x: Tensor) -> Tensor:
    """An operator that runs, and that the compiler is told nothing about."""
    return REAL_NORM(x)


@norm_of_unknown_shape.register_fake
def _(x: Tensor) -> Tensor:
    raise NotImplementedError("no one has thought about shapes")


def _norm_backward(ctx: Any, grad: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(REAL_NORM(leaf), leaf, grad)[0]


norm_of_unknown_shape.register_autograd(
    _norm_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0])
)


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch._dynamo.reset()
    monkeypatch.setattr(gpt, "norm", norm_of_unknown_shape)
    yield
    torch._dynamo.reset()
    torch.use_deterministic_algorithms(False)
    gc.unfreeze()


def _losses(**overrides: Any) -> tuple[list[float], set[bool]]:
    """The losses, and whether rows are marked as fallen back."""
    rows: list[StepStats] = []
    hooks = Hooks(
        on_start=lambda facts: None,
        on_step=rows.append,
        save=lambda state: None,
        checkpoints=list,
        should_stop=lambda: False,
    )
    train(_tiny(**overrides), hooks)
    return [row.loss for row in rows], {"fallback" in row.flags for row in rows}


def _tiny(**overrides: Any) -> TrainConfig:
    """Two layers of width 128 with FP8 everywhere, 2 micro-steps of 1,024 tokens."""
    sizes: dict[str, Any] = {
        "model.depth": 2,
        "model.aspect_ratio": 64,
        "model.head_dim": 64,
        "model.seq_len": 256,
        "moe.capacity_factor": 1.0,
        "data.device_batch_size": 4,
        "data.total_batch_tokens": 2048,
        "run.device": "cuda",
        "run.deterministic": True,
    }
    return with_overrides(d12_moe_fp8(num_steps=4), sizes | overrides)


def test_the_cause_is_told():
    with pytest.raises(CompileError, match=r"in block 0 of 2 with compile.mode 'static': .*no one has thought"):
        _losses()


def test_a_run_that_fell_back_records_its_micro_steps_and_equals_an_uncompiled_one():
    fallen_back, marked = _losses(**{"compile.fallback": "none"})
    plain, unmarked = _losses(**{"compile.mode": "none"})
    assert len(plain) == 4
    assert fallen_back == plain
    assert (marked, unmarked) == ({True}, {False})
