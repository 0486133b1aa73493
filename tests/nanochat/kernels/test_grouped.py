"""Grouped products round and nothing else: how far they can be off, and that experts do not leak into each other.

SQNR is the signal-to-quantisation-noise ratio in decibels against the same product in float64.
"""

import math

import pytest
import torch
from torch import Tensor

from nanochat.kernels.grouped import fp8_grouped_linear
from nanochat.kernels.quantizing import QuantizedWeight

RECIPES = ("tensorwise", "rowwise")
RAGGED = [5, 5, 37, 64]  # ends: expert 1 is empty
LENGTHS = [5, 0, 32, 27]


def sqnr_db(actual: Tensor, exact: Tensor) -> float:
    noise = (actual.double() - exact.double()).norm().item()
    return 20 * math.log10(exact.double().norm().item() / noise) if noise > 0 else math.inf


def _exact_product(x: Tensor, weight: Tensor, lengths: list[int]) -> Tensor:
    rows = x.double().split(lengths)
    return torch.cat([r @ w.double().t() for r, w in zip(rows, weight, strict=True)])


def _operands(recipe: str) -> tuple[Tensor, Tensor, QuantizedWeight]:
    torch.manual_seed(0)
    x = torch.randn(64, 96, dtype=torch.bfloat16, requires_grad=True)
    weight = (torch.randn(4, 128, 96) * torch.tensor([1.0, 0.1, 3.0, 0.5]).view(-1, 1, 1)).to(torch.bfloat16)
    quantized = QuantizedWeight(weight, recipe)
    quantized.refresh(weight)
    return x, weight.requires_grad_(), quantized


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("ends", [RAGGED, None])
def test_grouped_products_keep_27_db_forward_and_for_the_input_and_45_db_for_the_weight(
    recipe: str, ends: list[int] | None
):
    x, weight, quantized = _operands(recipe)
    lengths = LENGTHS if ends else [16] * 4
    offsets = torch.tensor(ends, dtype=torch.int32) if ends else None
    y = fp8_grouped_linear(x, weight, quantized, offsets, recipe)
    dy = torch.randn_like(y)
    y.backward(dy)
    assert x.grad is not None
    assert weight.grad is not None
    exact_dw = torch.stack(
        [d.double().t() @ r.double() for d, r in zip(dy.split(lengths), x.split(lengths), strict=True)]
    )
    assert sqnr_db(y, _exact_product(x, weight, lengths)) >= 27
    assert sqnr_db(x.grad, _exact_product(dy, weight.transpose(1, 2), lengths)) >= 27
    assert sqnr_db(weight.grad, exact_dw) >= 45


@pytest.mark.parametrize("ends", [RAGGED, [0, 0, 0, 64], [64, 64, 64, 64]])
def test_experts_without_rows_get_zeros_and_leak_nothing(ends: list[int]):
    torch.use_deterministic_algorithms(True)  # unwritten memory reads as NaN
    try:
        x, weight, quantized = _operands("rowwise")
        y = fp8_grouped_linear(x, weight, quantized, torch.tensor(ends, dtype=torch.int32), "rowwise")
        y.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert x.grad is not None
    assert weight.grad is not None
    assert all(torch.isfinite(t).all() for t in (y, x.grad, weight.grad))
    starts = [0, *ends[:-1]]
    for expert, (start, end) in enumerate(zip(starts, ends, strict=True)):
        assert (weight.grad[expert].abs().max() > 0) == (end > start)
