"""The router's product on bf16 matrix units is as exact as one in fp32."""

import torch
from torch import Tensor

from nanochat.kernels.thin import split, thin_product


def _error(actual: Tensor, exact: Tensor) -> float:
    return ((actual.double() - exact).norm() / exact.norm()).item()


def test_three_numbers_in_bf16_add_up_to_one_in_fp32() -> None:
    x = torch.randn(1000) * torch.logspace(-20, 20, 1000)
    parts = split(x, 3)
    assert all(part.dtype == torch.bfloat16 for part in parts)
    assert ((sum(part.double() for part in parts) - x.double()).abs() <= x.double().abs() * 2**-23).all()


def test_product_and_gradients_are_those_of_fp32() -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 96).to(torch.bfloat16).requires_grad_()
    weight = torch.randn(8, 96, requires_grad=True)
    above = torch.randn(300, 8) * 1e-6
    y = thin_product(x, weight)
    y.backward(above)
    x64, weight64, above64 = x.detach().double(), weight.detach().double(), above.double()
    assert x.grad is not None
    assert weight.grad is not None
    assert y.dtype == weight.grad.dtype == torch.float32
    assert _error(y.detach(), x64 @ weight64.t()) < 1e-6
    assert _error(weight.grad, above64.t() @ x64) < 1e-6
    assert _error(x.grad, above64 @ weight64) < 2**-8, "it is rounded to bf16 in the end"
