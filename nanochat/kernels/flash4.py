"""Causal attention in a window by FlashAttention-4, as one operator that the compiler leaves whole.

The library's own autograd function cannot be traced; an operator with a registered backward can, and in a recorded
micro-step its host work, which is long, is not repeated.

Legend: B rows, T positions, H heads, K head_dim.
"""

from typing import Any

import torch
from torch import Tensor

from nanochat.kernels.hopper import prepare_flash4

MAX_HEAD_DIM = 128
"""Larger heads take other kernels on Hopper, which were not measured."""


def head_problem(head_dim: int) -> str | None:
    """Returns why these kernels cannot serve heads of this size; None if they can."""
    if head_dim % 8 == 0 and head_dim <= MAX_HEAD_DIM:
        return None
    return f"head_dim is {head_dim}, not a multiple of 8 up to {MAX_HEAD_DIM}"


def _window(seq_len: int, window: int) -> dict[str, int | None]:
    """The library's words for `window` tokens before each; a window over the whole context is plain causal."""
    if window >= seq_len:
        return {"window_size_left": None, "window_size_right": None}
    return {"window_size_left": window, "window_size_right": 0}


@torch.library.custom_op("nanochat::flash4", mutates_args=(), tags=(torch.Tag.needs_exact_strides,))
def _flash4(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """q, k, v (B, T, H, K) bf16 -> attention (B, T, H, K) bf16, log of the softmax' sums (B, H, T) fp32."""
    prepare_flash4()
    from flash_attn.cute.interface import _flash_attn_fwd  # pyright: ignore[reportMissingImports]

    out, sums, *_ = _flash_attn_fwd(q, k, v, causal=True, return_lse=True, **_window(q.shape[1], window))
    return out, sums


@_flash4.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    batch, seq_len, num_heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty(batch, num_heads, seq_len, dtype=torch.float32)


@torch.library.custom_op("nanochat::flash4_backward", mutates_args=(), tags=(torch.Tag.needs_exact_strides,))
def _flash4_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, each (B, T, H, K) bf16."""
    prepare_flash4()
    from flash_attn.cute.interface import _flash_attn_bwd  # pyright: ignore[reportMissingImports]

    repeats = torch.are_deterministic_algorithms_enabled()
    dq, dk, dv = _flash_attn_bwd(
        q, k, v, out, grad.contiguous(), sums, None, True, 0.0, deterministic=repeats, **_window(q.shape[1], window)
    )
    return dq, dk, dv


@_flash4_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output)


def _backward(ctx: Any, grad: Tensor, _sums_grad: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*_flash4_backward(grad, *ctx.saved_tensors, ctx.window), None)


_flash4.register_autograd(_backward, setup_context=_keep)


def attend_flash4(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention by FlashAttention-4 with a window; q, k, v and result (B, T, H, K), bf16."""
    return _flash4(q, k, v, window)[0]
