"""The router's product: bf16 rows times a few rows in fp32, as exact as in fp32 but on the bf16 matrix units.

A number in fp32 is the sum of three in bf16, up to its last bits. So a product with a matrix in fp32 is one with three
in bf16, which a matrix unit does many times faster than fp32 units do the one; the sum is kept in fp32.

Legend: N tokens, E experts, D width.
"""

from typing import Any

import torch
from torch import Tensor


def split(x: Tensor, num_parts: int) -> list[Tensor]:
    """Numbers in bf16 whose sum is the fp32 `x`: to 8 bits with one part, 16 with two, 24 with three."""
    parts: list[Tensor] = []
    for _ in range(num_parts):
        parts.append(x.to(torch.bfloat16))
        x = x - parts[-1].float()
    return parts


@torch.library.custom_op("nanochat::mm_to_fp32", mutates_args=())
def mm_to_fp32(a: Tensor, b: Tensor) -> Tensor:
    """a (n, k) @ b (k, m), both bf16, summed and returned in fp32."""
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


@mm_to_fp32.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1], dtype=torch.float32)


def thin_grads(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `thin_product`: of x (N, D) in bf16, of the weight (E, D) in fp32; dy (N, E) fp32."""
    num_experts = weight.shape[0]
    high, middle, low = split(dy, 3)
    w_high, w_middle = split(weight, 2)
    dx = torch.cat((high, high, middle), 1) @ torch.cat((w_high, w_middle, w_high), 0)  # the rest is below bf16's bits
    parts = mm_to_fp32(torch.cat((high, middle, low), 1).t(), x)  # (3 E, D)
    return dx, parts.view(3, num_experts, -1).sum(0)


class _ThinProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        parts = mm_to_fp32(x, torch.cat(split(weight, 3), 0).t())  # (N, 3 E)
        return parts.view(x.shape[0], 3, weight.shape[0]).sum(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return thin_grads(grads[0], x, weight)


def thin_product(x: Tensor, weight: Tensor) -> Tensor:
    """x (N, D) bf16, weight (E, D) fp32 -> x @ weight.T in fp32 (N, E)."""
    out = _ThinProduct.apply(x, weight)
    assert isinstance(out, Tensor)
    return out
