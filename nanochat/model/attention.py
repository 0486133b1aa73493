"""Causal attention inside a window, and rotary position embedding.

A layer with a short window attends to itself and the `window` tokens before it. On Hopper both kinds of layer use
FlashAttention-4 if it is installed, on other GPUs the flash kernel that torch ships, whose aten entry takes a window
(the public scaled_dot_product_attention does not and would fall back to a slow masked kernel). On a CPU,
scaled_dot_product_attention with a mask gives the same function.

Legend: B rows, T positions, H heads, K head_dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.config import ConfigError
from nanochat.kernels import flash4
from nanochat.machine.kernel_libraries import unusable

_MAX_FLASH_HEAD_DIM = 256  # of torch's kernel


def rotary_tables(seq_len: int, head_dim: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary embedding with base 10,000 (RoFormer, arXiv 2104.09864), each (1, T, 1, K/2)."""
    channels = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device)
    inverse_frequency = 1.0 / (10_000 ** (channels / head_dim))  # (K/2,)
    positions = torch.arange(seq_len, dtype=torch.float32, device=device)
    angles = torch.outer(positions, inverse_frequency)[None, :, None, :]  # (1, T, 1, K/2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pair (channel i, channel i + K/2) of `x` (B, T, H, K) by its position's angle."""
    first, second = x.chunk(2, dim=-1)  # (B, T, H, K/2) each
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def window_mask(seq_len: int, window: int, device: torch.device) -> Tensor:
    """(T, T) bool: True where query i may see key j, that is i - window <= j <= i."""
    positions = torch.arange(seq_len, device=device)
    distance = positions[:, None] - positions[None, :]
    return (distance >= 0) & (distance <= window)


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention by torch's scaled_dot_product_attention; q, k, v and result (B, T, H, K)."""
    seq_len = q.shape[1]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, K)
    if window >= seq_len:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=window_mask(seq_len, window, q.device))
    return out.transpose(1, 2)


def attend_flash(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention by torch's own FlashAttention-2 kernel with a window; q, k, v and result (B, T, H, K), bf16."""
    seq_len = q.shape[1]
    left = window if window < seq_len else -1
    out, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, seq_len, seq_len, 0.0, True, False, window_size_left=left, window_size_right=0
    )
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, window: int, backend: str) -> Tensor:
    """Causal attention of (B, T, H, K) inputs by the backend that `resolve_backend` named."""
    if backend == "flash4":
        return flash4.attend_flash4(q, k, v, window)
    return attend_flash(q, k, v, window) if backend == "flash" else attend_sdpa(q, k, v, window)


def resolve_backend(requested: str, device: torch.device, head_dim: int) -> str:
    """`auto` is the fastest that runs here: flash4, else flash, else sdpa.

    Raises ConfigError for a kernel that was asked for and cannot run.
    """
    has_flash = device.type == "cuda" and head_dim % 8 == 0 and head_dim <= _MAX_FLASH_HEAD_DIM
    no_flash4 = unusable("flash-attn-4", device) or flash4.head_problem(head_dim)
    if requested == "auto":
        return "flash4" if no_flash4 is None else "flash" if has_flash else "sdpa"
    if requested == "flash" and not has_flash:
        raise ConfigError(
            f"model.attention is flash, whose kernel runs on GPUs with a head_dim that is a multiple of 8 and at most "
            f"{_MAX_FLASH_HEAD_DIM}; this is a "
            f"{device.type} and head_dim is {head_dim}: take auto"
        )
    if requested == "flash4" and no_flash4 is not None:
        raise ConfigError(f"model.attention is flash4, which cannot run here: {no_flash4}; take auto")
    return requested
