"""What a GPU computes is what the plain formulas say: dispatch, FP8, windows, compiled and recorded steps.

SQNR is the signal-to-quantisation-noise ratio in decibels.
"""

import gc
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanochat.attention import attend_flash
from nanochat.config import MoEConfig, PrecisionConfig, TrainConfig, with_overrides
from nanochat.fp8 import QuantizedWeight, convert_linears, fp8_grouped_linear
from nanochat.moe import Experts, MoE
from nanochat.recipes import d12_moe
from nanochat.setup import prepare
from nanochat.stats import Hooks, StepStats
from nanochat.stepping import Stepper
from nanochat.train import train

pytestmark = pytest.mark.gpu
WIDTH, NUM_EXPERTS = 128, 8
FP8 = {"precision.linears": "fp8", "precision.experts": "fp8"}


def _sqnr_db(actual: Tensor, exact: Tensor) -> float:
    noise = (actual.double() - exact.double()).norm().item()
    return 20 * math.log10(exact.double().norm().item() / noise) if noise > 0 else math.inf


# Dispatch


def _moe(device: torch.device, factor: float | None, load: str) -> MoE:
    moe = MoEConfig(num_experts=NUM_EXPERTS, top_k=2, hidden_mult=2, capacity_factor=factor)
    module = MoE(WIDTH, moe, PrecisionConfig()).to(device)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, WIDTH**-0.5)
        preference = module.router.weight[:, 0]  # feature 0 of every token is 1
        preference.zero_()
        if load == "one is empty":
            preference[-1] = -50
        if load == "one gets all":
            preference[1] = 50
    module.experts.to(torch.bfloat16)
    return module


def _is_kept(experts: Tensor, weights: Tensor, capacity: int) -> Tensor:
    """(N, k): whether an assignment has one of the `capacity` highest weights of its expert, the earliest if equal."""
    queues: dict[int, list[tuple[float, int, int]]] = {}
    for n, (row, row_weights) in enumerate(zip(experts.tolist(), weights.tolist(), strict=True)):
        for j, expert in enumerate(row):
            queues.setdefault(expert, []).append((-row_weights[j], n, j))
    kept = torch.zeros_like(experts, dtype=torch.bool)
    for queue in queues.values():
        for _, n, j in sorted(queue)[:capacity]:
            kept[n, j] = True
    return kept


@pytest.mark.parametrize("load", ["even", "one is empty", "one gets all"])
@pytest.mark.parametrize("factor", [None, 0.5, 1.25])
def test_dispatch_and_its_gradients_equal_a_float64_reference(gpu: torch.device, factor: float | None, load: str):
    torch.manual_seed(0)
    num_tokens = 1000
    module = _moe(gpu, factor, load)
    x = torch.randn(1, num_tokens, WIDTH, device=gpu)
    x[..., 0] = 1
    x = x.to(torch.bfloat16).requires_grad_()
    out, losses, _ = module(x, module.capacity(num_tokens))
    direction = torch.randn(num_tokens, WIDTH, device=gpu).to(torch.bfloat16)
    ((out[0] * direction).sum().float() + losses.balance).backward()

    routing = module.router(x[0].detach())
    capacity = num_tokens if factor is None else math.ceil(num_tokens * 2 / NUM_EXPERTS * factor)
    kept = _is_kept(routing.experts, routing.weights.detach(), capacity)
    params = (module.router.weight, module.experts.w1, module.experts.w2)
    x64, router, w1, w2 = (t.detach().double().requires_grad_() for t in (x[0], *params))
    probs = torch.softmax(x64 @ router.t(), -1)
    top = probs.gather(1, routing.experts)
    weights = top / top.sum(-1, keepdim=True) * kept
    per_expert = torch.stack([torch.relu(x64 @ w1[e].t()).square() @ w2[e].t() for e in range(NUM_EXPERTS)], 1)
    chosen = per_expert.gather(1, routing.experts[:, :, None].expand(-1, -1, WIDTH))
    exact = (weights[:, :, None] * chosen).sum(1)
    load_of = torch.bincount(routing.experts.reshape(-1), minlength=NUM_EXPERTS) / num_tokens
    ((exact * direction.double()).sum() + NUM_EXPERTS * (probs.mean(0) * load_of).sum()).backward()

    pairs = {"out": (out[0], exact)}
    named = zip(("x", "router", "w1", "w2"), (x, *params), (x64, router, w1, w2), strict=True)
    pairs |= {name: (ours.grad.view_as(theirs), theirs.grad) for name, ours, theirs in named}
    for name, (ours, theirs) in pairs.items():
        assert torch.isfinite(ours).all(), name
        assert _sqnr_db(ours.detach(), theirs.detach()) > 38, name


# FP8


@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
@pytest.mark.parametrize("lengths", [[48, 0, 17, 191, 256, 0, 0, 0], [64] * 8])
def test_grouped_fp8_products_keep_27_db_and_the_bf16_weight_gradient_45_db(
    gpu: torch.device, recipe: str, lengths: list[int]
):
    torch.manual_seed(1)
    x = torch.randn(512, 256, device=gpu).to(torch.bfloat16).requires_grad_()
    weight = torch.randn(NUM_EXPERTS, 384, 256, device=gpu).to(torch.bfloat16)
    quantized = QuantizedWeight(weight, recipe)
    quantized.refresh(weight)
    weight.requires_grad_()
    offsets = torch.tensor(lengths, device=gpu).cumsum(0).to(torch.int32)
    y = fp8_grouped_linear(x, weight, quantized, offsets, recipe)
    dy = torch.randn_like(y)
    y.backward(dy)
    assert x.grad is not None
    assert weight.grad is not None
    rows, grads, matrices = x.detach().double().split(lengths), dy.double().split(lengths), weight.detach().double()
    assert _sqnr_db(y.detach(), torch.cat([r @ m.t() for r, m in zip(rows, matrices, strict=True)])) >= 27
    assert _sqnr_db(x.grad, torch.cat([g @ m for g, m in zip(grads, matrices, strict=True)])) >= 27
    exact_dw = torch.stack([g.t() @ r for g, r in zip(grads, rows, strict=True)])
    assert _sqnr_db(weight.grad, exact_dw) >= 45
    empty = [e for e, length in enumerate(lengths) if length == 0]
    assert (weight.grad[empty] == 0).all()


def _both_ways(module: nn.Module, x: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    out = module(x, *more)
    torch.manual_seed(2)
    out.backward(torch.randn_like(out))
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_fp8_experts_and_linears_keep_24_db_forward_and_23_db_for_the_input(gpu: torch.device, recipe: str):
    torch.manual_seed(3)
    experts = Experts(256, MoEConfig(num_experts=4, hidden_mult=2), PrecisionConfig(experts="fp8", recipe=recipe))  # pyright: ignore[reportArgumentType]
    holder = nn.ModuleDict({"q": nn.Linear(256, 512, bias=False), "experts": experts}).to(gpu, torch.bfloat16)
    with torch.no_grad():
        for parameter in holder.parameters():
            parameter.normal_(0, 256**-0.5)
    x = torch.randn(512, 256, device=gpu, dtype=torch.bfloat16)
    offsets = torch.tensor([100, 100, 300, 512], device=gpu, dtype=torch.int32)
    exact = {"experts": _both_ways(experts, x, offsets), "q": _both_ways(holder["q"], x)}
    experts.refresh_fp8()
    assert convert_linears(holder, recipe, frozenset({"q"}), emulate=False) == 1
    ours = {"experts": _both_ways(experts, x, offsets), "q": _both_ways(holder["q"], x)}
    for name in exact:
        assert 24 <= _sqnr_db(ours[name][0], exact[name][0]) < 40, name
        assert 23 <= _sqnr_db(ours[name][1], exact[name][1]) < 40, name


# Attention


@pytest.mark.parametrize("window", [1, 128, 511, 512])
def test_flash_attention_in_a_window_equals_the_masked_float64_reference(gpu: torch.device, window: int):
    torch.manual_seed(4)
    inputs = [torch.randn(2, 512, 3, 64, device=gpu).to(torch.bfloat16).requires_grad_() for _ in range(3)]
    exact_inputs = [t.detach().double().requires_grad_() for t in inputs]
    q, k, v = (t.transpose(1, 2) for t in exact_inputs)
    distance = torch.arange(512, device=gpu)[:, None] - torch.arange(512, device=gpu)
    scores = (q @ k.transpose(2, 3) / 8).masked_fill((distance < 0) | (distance > window), -math.inf)
    exact = (scores.softmax(-1) @ v).transpose(1, 2)
    out = attend_flash(*inputs, window)
    direction = torch.randn_like(out)
    out.backward(direction)
    exact.backward(direction.double())
    assert _sqnr_db(out.detach(), exact.detach()) > 40
    for ours, theirs in zip(inputs, exact_inputs, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert _sqnr_db(ours.grad, theirs.grad) > 38


# Whole runs


def _tiny(**overrides: Any) -> TrainConfig:
    """Four layers of width 128, 2 micro-steps of 1,024 tokens."""
    sizes: dict[str, Any] = {
        "model.depth": 4,
        "model.aspect_ratio": 32,
        "model.head_dim": 64,
        "model.seq_len": 256,
        "data.device_batch_size": 4,
        "data.total_batch_tokens": 2048,
        "run.device": "cuda",
    }
    return with_overrides(d12_moe(num_steps=6), sizes | overrides)


def _hooks(rows: list[StepStats]) -> Hooks:
    return Hooks(
        on_start=lambda facts: None,
        on_step=rows.append,
        save=lambda state: None,
        checkpoints=list,
        should_stop=lambda: False,
    )


@pytest.fixture
def fresh_process() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch.use_deterministic_algorithms(False)
    gc.unfreeze()


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize(
    "precision", [{}, FP8 | {"moe.capacity_factor": 1.0}, FP8 | {"precision.recipe": "rowwise"}], ids=repr
)
def test_compiled_runs_train_like_uncompiled_ones(mode: str, precision: dict[str, Any]):
    rows: list[StepStats] = []
    plain: list[StepStats] = []
    train(_tiny(**precision, **{"compile.mode": mode}), _hooks(rows))
    train(_tiny(**precision, **{"compile.mode": "none"}), _hooks(plain))
    assert [row.loss for row in rows] == pytest.approx([row.loss for row in plain], abs=0.03)


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize("precision", [{}, FP8 | {"moe.capacity_factor": 1.0}], ids=repr)
def test_a_recorded_micro_step_adds_the_same_gradients_as_one_that_is_launched(precision: dict[str, Any]):
    run = prepare(_tiny(**precision, **{"compile.mode": "none"}), _hooks([]))
    stepper = Stepper(run)
    for step in range(3):
        stepper(step)  # from the third micro-step on they are replayed
    batches = [run.feed.next() for _ in range(4)]
    gradients: list[dict[str, Tensor]] = []
    for take in (stepper.micro_step, stepper._recorded):
        assert take is not None
        run.optimizer.zero_grad()
        for inputs, targets in batches:
            take(inputs, targets)
        torch.cuda.synchronize()
        named = run.model.named_parameters()
        gradients.append({name: p.grad.detach().clone() for name, p in named if p.grad is not None})
    launched, replayed = gradients
    assert launched.keys() == replayed.keys()
    for name, gradient in launched.items():
        assert gradient.abs().max() > 0, name
        assert _sqnr_db(replayed[name], gradient) > 35, name


@pytest.mark.usefixtures("fresh_process")
def test_a_deterministic_run_repeats_bit_for_bit():
    losses: list[list[float]] = []
    for _ in range(2):
        rows: list[StepStats] = []
        torch._dynamo.reset()
        train(_tiny(**FP8, **{"run.deterministic": True, "moe.capacity_factor": 1.0}), _hooks(rows))
        losses.append([row.loss for row in rows])
    assert losses[0] == losses[1]
