"""What a GPU computes is what the plain formulas say: dispatch, FP8 products and modules, windows of attention.

SQNR is the signal-to-quantisation-noise ratio in decibels. Whole runs are in test_runs.py, which takes longer.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from nanochat.config import Fp8Recipe, MoEConfig, Precision, PrecisionConfig
from nanochat.kernels.grouped import fp8_grouped_linear
from nanochat.kernels.quantizing import QuantizedWeight
from nanochat.model.attention import attend_flash
from nanochat.model.fp8 import convert_linears, project
from nanochat.model.moe import Experts, MoE
from tests.helpers.gpu import check_gradients, exact_window_attention, sqnr_db

pytestmark = pytest.mark.gpu
WIDTH, NUM_EXPERTS = 128, 8


# Dispatch


def _moe(device: torch.device, factor: float | None, load: str, experts: Precision = "bf16") -> MoE:
    moe = MoEConfig(num_experts=NUM_EXPERTS, top_k=2, hidden_mult=2, capacity_factor=factor)
    module = MoE(WIDTH, moe, PrecisionConfig(experts=experts)).to(device)
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
    module.experts.refresh_fp8()
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
    for name, ours, theirs in zip(("x", "router", "w1", "w2"), (x, *params), (x64, router, w1, w2), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        pairs[name] = ours.grad.view_as(theirs), theirs.grad
    for name, (ours, theirs) in pairs.items():
        assert torch.isfinite(ours).all(), name
        assert sqnr_db(ours.detach(), theirs.detach()) > 38, name


@pytest.mark.parametrize("experts", ["bf16", "fp8"])
@pytest.mark.parametrize("factor", [None, 1.0])
def test_experts_repeat_bit_for_bit(gpu: torch.device, factor: float | None, experts: Precision):
    torch.manual_seed(0)
    module = _moe(gpu, factor, "even", experts)
    x = torch.randn(1, 1000, WIDTH, device=gpu, dtype=torch.bfloat16, requires_grad=True)
    tensors = (x, *module.parameters())
    found: list[tuple[Tensor, ...]] = []
    for _ in range(2):
        out, losses, _ = module(x, module.capacity(1000))
        found.append((out, *torch.autograd.grad(out.float().square().sum() + losses.balance, tensors)))
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


# FP8


@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
@pytest.mark.parametrize("lengths", [[48, 0, 17, 191, 256, 0, 0, 0], [0] * 7 + [512], None], ids=str)
def test_grouped_fp8_products_keep_27_db_and_the_bf16_weight_gradient_45_db(
    gpu: torch.device, recipe: str, lengths: list[int] | None
):
    torch.manual_seed(1)
    x = torch.randn(512, 256, device=gpu).to(torch.bfloat16).requires_grad_()
    weight = torch.randn(NUM_EXPERTS, 384, 256, device=gpu).to(torch.bfloat16)
    quantized = QuantizedWeight(weight, recipe)
    quantized.refresh(weight)
    weight.requires_grad_()
    offsets = None if lengths is None else torch.tensor(lengths, device=gpu).cumsum(0).to(torch.int32)
    lengths = lengths or [64] * NUM_EXPERTS
    y = fp8_grouped_linear(x, weight, quantized, offsets, recipe)
    dy = torch.randn_like(y)
    y.backward(dy)
    assert x.grad is not None
    assert weight.grad is not None
    rows, grads, matrices = x.detach().double().split(lengths), dy.double().split(lengths), weight.detach().double()
    assert sqnr_db(y.detach(), torch.cat([r @ m.t() for r, m in zip(rows, matrices, strict=True)])) >= 27
    assert sqnr_db(x.grad, torch.cat([g @ m for g, m in zip(grads, matrices, strict=True)])) >= 27
    exact_dw = torch.stack([g.t() @ r for g, r in zip(grads, rows, strict=True)])
    assert sqnr_db(weight.grad, exact_dw) >= 45
    empty = [e for e, length in enumerate(lengths) if length == 0]
    assert (weight.grad[empty] == 0).all()


def _both_ways(module: nn.Module, x: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    out = module(x, *more)
    torch.manual_seed(2)
    out.backward(torch.randn_like(out))
    assert x.grad is not None
    return out.detach(), x.grad


# A product of two tensors rounded to e4m3 keeps 28.5 dB. Experts are two products around a squared ReLU, which doubles
# a relative error, and three on the way back; tensorwise linears round the gradient to e5m2, which is 6 dB coarser.
MODULE_DB = {
    ("experts", "tensorwise"): (24.0, 23.0),
    ("experts", "rowwise"): (24.0, 23.0),
    ("q", "tensorwise"): (27.0, 24.0),
    ("q", "rowwise"): (27.0, 27.0),
}


@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_fp8_modules_keep_what_their_number_of_products_allows(gpu: torch.device, recipe: Fp8Recipe):
    torch.manual_seed(3)
    experts = Experts(256, MoEConfig(num_experts=4, hidden_mult=2), PrecisionConfig(experts="fp8", recipe=recipe))
    attention = nn.ModuleDict({"q": nn.Linear(256, 512, bias=False)})
    holder = nn.ModuleDict({"attention": attention, "experts": experts}).to(gpu, torch.bfloat16)
    with torch.no_grad():
        for parameter in holder.parameters():
            parameter.normal_(0, 256**-0.5)
    x = torch.randn(512, 256, device=gpu, dtype=torch.bfloat16)
    offsets = torch.tensor([100, 100, 300, 512], device=gpu, dtype=torch.int32)
    exact = {"experts": _both_ways(experts, x, offsets), "q": _both_ways(attention["q"], x)}
    experts.refresh_fp8()
    assert convert_linears(holder, PrecisionConfig(linears="fp8_qkv", recipe=recipe), emulate=False) == 1
    ours = {"experts": _both_ways(experts, x, offsets), "q": _both_ways(attention["q"], x)}
    for name in exact:
        forward_db, backward_db = MODULE_DB[name, recipe]
        assert forward_db <= sqnr_db(ours[name][0], exact[name][0]) < 40, name
        assert backward_db <= sqnr_db(ours[name][1], exact[name][1]) < 40, name


@torch.no_grad()
def test_evaluation_multiplies_the_weights_themselves_without_room_for_a_copy(gpu: torch.device):
    experts = Experts(512, MoEConfig(num_experts=8, hidden_mult=4), PrecisionConfig(experts="fp8"))
    attention = nn.ModuleDict({"q": nn.Linear(512, 8192, bias=False)})
    holder = nn.ModuleDict({"attention": attention, "experts": experts}).to(gpu, torch.bfloat16)
    for parameter in holder.parameters():
        parameter.normal_(0, 512**-0.5)
    experts.refresh_fp8()
    convert_linears(holder, PrecisionConfig(linears="fp8_qkv"), emulate=False)
    holder.eval()
    linear = attention["q"]
    assert isinstance(linear, nn.Linear)
    x = torch.randn(64, 512, device=gpu, dtype=torch.bfloat16)
    offsets = torch.arange(8, 72, 8, device=gpu, dtype=torch.int32)
    for call in (lambda: experts(x, offsets), lambda: project(linear, x)):
        call()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        assert torch.cuda.max_memory_allocated() - before < 4 * 2**20, "a matrix has 8 MiB or more in bf16, 4 in FP8"


# Attention


@pytest.mark.parametrize("window", [1, 128, 511, 512])
def test_flash_attention_in_a_window_equals_the_masked_float64_reference(gpu: torch.device, window: int):
    torch.manual_seed(4)
    inputs = [torch.randn(2, 512, 3, 64, device=gpu).to(torch.bfloat16).requires_grad_() for _ in range(3)]
    exact, exact_inputs = exact_window_attention(inputs, window)
    out = attend_flash(inputs[0], inputs[1], inputs[2], window)
    direction = torch.randn_like(out)
    out.backward(direction)
    exact.backward(direction.double())
    assert sqnr_db(out.detach(), exact.detach()) > 40
    check_gradients(inputs, exact_inputs, 38)
