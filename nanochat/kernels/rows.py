"""Passes over rows that the compiler would fuse, for runs without it: moving and weighting them, mixing and norming.

A compiled block keeps torch's operators, which the compiler fuses with what is around them; `runs_at_once` tells.

Legend: N tokens, R rows of all experts, k rows per token, D width.
"""

from typing import Any

import torch
from torch import Tensor

from nanochat.kernels.hopper import jitted

_EPS = torch.finfo(torch.float32).eps  # RMSNorm's own, which torch takes for every dtype


def runs_at_once(x: Tensor) -> bool:
    """True if what is done to `x` happens now and on a GPU, and is not being recorded for a compiler."""
    return not torch.compiler.is_compiling() and type(x) is Tensor and x.is_cuda


def gather_sum(y: Tensor, rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """y (R, D), rows (N, k) int64 -> each one's rows, times weights (N, k) fp32, added up in fp32: (N, D).

    A row of R or more adds nothing.
    """
    num_rows, width = y.shape
    n, k = rows.shape
    out = y.new_empty(n, width)
    if n:
        jitted().gather_sum_kernel[(n,)](
            y.contiguous(),
            rows.contiguous(),
            rows if weights is None else weights.contiguous(),
            out,
            num_rows,
            width,
            K=k,
            HAS_WEIGHTS=weights is not None,
            BLOCK=jitted().next_power_of_2(width),
        )
    return out


class _MixAndNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor, scales: Tensor | None) -> tuple[Tensor, Tensor]:
        width = x.shape[-1]
        x, other = x.contiguous(), other.contiguous()
        mixed, normed = torch.empty_like(x), torch.empty_like(x)
        rstd = x.new_empty(x.numel() // width, dtype=torch.float32)
        has_scales = scales is not None
        jitted().mix_and_norm_kernel[(len(rstd),)](
            x,
            other,
            scales if has_scales else rstd,
            mixed,
            normed,
            rstd,
            width,
            _EPS,
            HAS_SCALES=has_scales,
            BLOCK=jitted().next_power_of_2(width),
        )
        ctx.save_for_backward(mixed, rstd, scales, *((x, other) if has_scales else ()))
        return mixed, normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mixed, rstd, scales, *inputs = ctx.saved_tensors
        dmixed, dnormed = (grad.contiguous() for grad in grads)
        dx = torch.empty_like(mixed)
        has_scales = scales is not None
        x, other = inputs if has_scales else (mixed, mixed)
        dother = torch.empty_like(mixed) if has_scales else dx
        dots = rstd.new_empty(len(rstd), 2)
        jitted().mix_and_norm_backward_kernel[(len(rstd),)](
            dmixed,
            dnormed,
            mixed,
            rstd,
            x,
            other,
            scales if has_scales else rstd,
            dx,
            dother,
            dots,
            mixed.shape[-1],
            HAS_SCALES=has_scales,
            BLOCK=jitted().next_power_of_2(mixed.shape[-1]),
        )
        return dx, dother, dots.sum(0).to(scales.dtype) if has_scales else None


def mix_and_norm(x: Tensor, other: Tensor, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x, other (..., D), scales (2,) fp32 -> scales[0] x + scales[1] other, or their sum, and its RMSNorm."""
    out = _MixAndNorm.apply(x, other, scales)
    assert isinstance(out, tuple)
    return out
