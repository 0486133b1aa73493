"""FP8 rounds and nothing else: how far products can be off, which matrices are converted, and that copies stay fresh.

SQNR is the signal-to-quantisation-noise ratio in decibels against the same product in float64.
"""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchao.float8.float8_linear import Float8Linear

from nanochat.config import MoEConfig, PrecisionConfig, TrainConfig, with_overrides
from nanochat.kernels.grouped import grouped_linear
from nanochat.kernels.quantizing import QuantizedWeight
from nanochat.model.fp8 import conversion_line, convert_linears
from nanochat.model.gpt import GPT
from nanochat.model.moe import Experts
from nanochat.recipes import d12_moe_fp8

RECIPES = ("tensorwise", "rowwise")


def sqnr_db(actual: Tensor, exact: Tensor) -> float:
    noise = (actual.double() - exact.double()).norm().item()
    return 20 * math.log10(exact.double().norm().item() / noise) if noise > 0 else math.inf


def _tiny(**overrides: object) -> TrainConfig:
    sizes: dict[str, object] = {"model.depth": 2, "model.aspect_ratio": 32, "model.head_dim": 16, "model.seq_len": 32}
    return with_overrides(d12_moe_fp8(num_steps=1), sizes | {"model.vocab_size": 320} | overrides)


def _model(config: TrainConfig, convert: bool) -> GPT:
    torch.manual_seed(0)
    model = GPT(config, "sdpa")
    model.initialize(torch.device("cpu"), torch.bfloat16)
    for name, parameter in model.named_parameters():
        if name.endswith(("out.weight", "w2", "down.weight", "lm_head.weight")):
            nn.init.normal_(parameter, 0, config.model.width**-0.5)
        if not name.endswith(("router.weight", "_scale")):
            parameter.data = parameter.data.to(torch.bfloat16)
    if convert:
        convert_linears(model, config.precision, emulate=True)
        model.refresh_fp8()
    return model


def _forward_and_input_gradient(module: nn.Module, x: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    out = module(x, *more)
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out))
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.parametrize("recipe", RECIPES)
def test_converted_modules_keep_24_db_forward_and_23_db_for_the_input(recipe: str):
    config = _tiny(**{"precision.recipe": recipe})
    eight, sixteen = _model(config, convert=True), _model(config, convert=False)
    x = torch.randn(64, 64, dtype=torch.bfloat16)
    offsets = torch.tensor([8, 8, 20, 30, 40, 50, 60, 64], dtype=torch.int32)
    names = {"blocks.0.mlp.experts": (offsets,), "head.lm_head": ()}
    names |= {f"blocks.1.attention.{role}": () for role in ("q", "k", "v", "out")}
    for name, more in names.items():
        ours = _forward_and_input_gradient(eight.get_submodule(name), x, *more)
        exact = _forward_and_input_gradient(sixteen.get_submodule(name), x, *more)
        assert sqnr_db(ours[0], exact[0]) >= 24, name
        # The experts' input gradient is off by three rounded products: 28.5 dB each make 23.7 dB.
        assert sqnr_db(ours[1], exact[1]) >= 23, name


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_heads_gradients_are_those_of_bf16(recipe: str):
    config = _tiny(**{"precision.recipe": recipe})
    eight, sixteen = (_model(config, convert).head.lm_head for convert in (True, False))
    x = torch.randn(64, 64, dtype=torch.bfloat16)
    out, dx = _forward_and_input_gradient(eight, x)
    bf16_out, bf16_dx = _forward_and_input_gradient(sixteen, x)
    assert 24 <= sqnr_db(out, bf16_out) < 40
    assert torch.equal(dx, bf16_dx)
    assert eight.weight.grad is not None
    assert sixteen.weight.grad is not None
    assert torch.equal(eight.weight.grad, sixteen.weight.grad)


@pytest.mark.parametrize("num_experts", [16, 32, 64])
def test_attention_and_head_are_converted_and_nothing_else_is_whatever_divides_by_16(num_experts: int):
    model = _model(_tiny(**{"moe.num_experts": num_experts}), convert=True)
    converted = {name for name, module in model.named_modules() if isinstance(module, Float8Linear)}
    attention = {f"blocks.{layer}.attention.{role}" for layer in (0, 1) for role in ("q", "k", "v", "out")}
    assert converted == attention | {"head.lm_head"}
    quantized = {name for name, module in model.named_modules() if isinstance(module, QuantizedWeight)}
    assert quantized == {f"blocks.{layer}.mlp.experts.{w}_fp8" for layer in (0, 1) for w in ("w1", "w2")}


@pytest.mark.parametrize(("moe_every", "dense_layers"), [(None, (0, 1, 2)), (2, (1,))])
def test_fp8_converts_the_mlp_of_every_layer_without_experts(moe_every: int | None, dense_layers: tuple[int, ...]):
    config = _tiny(**{"model.depth": 3, "precision.experts": "bf16"} | ({"moe.every": moe_every} if moe_every else {}))
    config = config if moe_every else dataclasses.replace(config, moe=None)
    model = _model(config, convert=True)
    converted = {name for name, module in model.named_modules() if isinstance(module, Float8Linear)}
    mlps = {f"blocks.{layer}.mlp.{matrix}" for layer in dense_layers for matrix in ("up", "down")}
    assert {name for name in converted if ".mlp." in name} == mlps
    assert len(converted) == 3 * 4 + 1 + len(mlps)
    assert (
        f"up {len(dense_layers)}, down {len(dense_layers)}" in conversion_line(model, "tensorwise").split("skipped")[0]
    )


@pytest.mark.parametrize("linears", ["fp8_head", "fp8_attention", "fp8_qkv", "fp8_out"])
def test_fp8_in_one_part_leaves_the_mlp_alone(linears: str):
    dense = dataclasses.replace(_tiny(**{"precision.experts": "bf16", "precision.linears": linears}), moe=None)
    converted = {n for n, module in _model(dense, convert=True).named_modules() if isinstance(module, Float8Linear)}
    assert converted
    assert not any(".mlp." in name for name in converted)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_converted_mlp_keeps_24_db_forward_and_evaluates_bit_for_bit(recipe: str):
    config = dataclasses.replace(_tiny(**{"precision.recipe": recipe, "precision.experts": "bf16"}), moe=None)
    eight, sixteen = (_model(config, convert).get_submodule("blocks.0.mlp") for convert in (True, False))
    x = torch.randn(64, 64, dtype=torch.bfloat16)
    ours, exact = _forward_and_input_gradient(eight, x), _forward_and_input_gradient(sixteen, x)
    assert 24 <= sqnr_db(ours[0], exact[0]) < 40
    assert 18 <= sqnr_db(ours[1], exact[1]) < 40  # tensorwise linears round gradients to e5m2, which is coarser
    assert torch.equal(eight.eval()(x), sixteen.eval()(x))


def test_linears_and_experts_are_converted_independently():
    config = _tiny(**{"precision.linears": "bf16"})
    experts_only = _model(config, convert=True)
    assert any(isinstance(module, QuantizedWeight) for module in experts_only.modules())
    assert not any(isinstance(module, Float8Linear) for module in experts_only.modules())
    config = _tiny(**{"precision.experts": "bf16"})
    model = _model(config, convert=False)
    assert convert_linears(model, config.precision, emulate=True) == 9
    model.refresh_fp8()
    assert not any(isinstance(module, QuantizedWeight) for module in model.modules())


def test_an_fp8_model_evaluates_bit_for_bit_as_the_bf16_model():
    config = _tiny(**{"moe.capacity_factor": 0.5})
    eight, sixteen = _model(config, convert=True), _model(config, convert=False)
    ids, targets = torch.randint(0, 320, (2, 32)), torch.randint(0, 320, (2, 32))
    with torch.no_grad():
        trained = eight(ids, targets)[0]
        evaluated, expected = eight.eval()(ids, targets)[0], sixteen.eval()(ids, targets)[0]
    assert torch.equal(evaluated, expected)
    assert not torch.equal(trained, evaluated)


class Outputs(TorchDispatchMode):
    """The shapes of all new tensors that operations make."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.shapes |= {tuple(t.shape) for t in made if t.untyped_storage().data_ptr() not in self.known}
        return out


@pytest.mark.parametrize("recipe", RECIPES)
def test_evaluation_makes_no_copy_of_a_weight(recipe: str):
    model = _model(_tiny(**{"precision.recipe": recipe}), convert=True).eval()
    ids = torch.randint(0, 320, (3, 32))
    with torch.no_grad(), Outputs(model) as outputs:
        model(ids, ids)
    assert outputs.shapes
    weights = {tuple(parameter.shape) for parameter in model.parameters() if parameter.ndim >= 2}
    assert outputs.shapes & (weights | {(*shape[:-2], shape[-1], shape[-2]) for shape in weights}) == set()


def test_the_log_counts_what_is_converted_and_what_is_not():
    every = _model(_tiny(), convert=True)
    assert conversion_line(every, "tensorwise") == (
        "FP8 (tensorwise): matrices converted 13 (q 2, k 2, v 2, out 2, w1 2, w2 2, lm_head 1), "
        "skipped 5 (wte 1, router 2, value_embed 1, value_gate 1)"
    )
    config = _tiny(**{"precision.linears": "fp8_head", "precision.experts": "bf16"})
    assert "converted 1 (lm_head 1), skipped 17 (" in conversion_line(_model(config, convert=True), "rowwise")


def test_copies_are_stale_until_refreshed_and_exact_afterwards():
    torch.manual_seed(0)
    experts = Experts(32, MoEConfig(num_experts=2, hidden_mult=1), PrecisionConfig(experts="fp8"))
    for weight in (experts.w1, experts.w2):
        weight.data = torch.randn(weight.shape, dtype=torch.bfloat16)
    experts.refresh_fp8()
    x, offsets = torch.randn(16, 32, dtype=torch.bfloat16), torch.tensor([7, 16], dtype=torch.int32)
    before = experts(x, offsets)
    buffers = {name: buffer.data_ptr() for name, buffer in experts.named_buffers()}
    with torch.no_grad():
        experts.w1.mul_(-2)
    assert torch.equal(experts(x, offsets), before)
    experts.refresh_fp8()
    after = experts(x, offsets)
    assert sqnr_db(after, experts.eval()(x, offsets)) > 20
    assert sqnr_db(before, after) < 3
    assert buffers == {name: buffer.data_ptr() for name, buffer in experts.named_buffers()}


def test_without_fp8_experts_multiply_in_their_own_dtype():
    experts = Experts(32, MoEConfig(num_experts=2, hidden_mult=1), PrecisionConfig())
    for weight in (experts.w1, experts.w2):
        nn.init.normal_(weight)
    experts.refresh_fp8()
    x = torch.randn(16, 32)
    assert list(experts.buffers()) == []
    hidden = torch.relu(grouped_linear(x, experts.w1, None)).square()
    assert torch.equal(experts(x, None), grouped_linear(hidden, experts.w2, None))
