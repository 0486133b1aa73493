"""Queries and keys after their product: turned by position and normed, in one pass forward and one backward.

Backward needs no more than attention keeps anyway, the normed queries and keys, and one number per head. It writes the
three gradients side by side, as the product's own backward reads them, and in FP8 as well if that reads them so.

Legend: B rows, T positions, N = B T tokens, H heads, K head_dim, D = H K width.
"""

from typing import Any

import torch
from torch import Tensor

from nanochat.kernels import hopper_products as products
from nanochat.kernels.hopper import jitted
from nanochat.kernels.quantizing import E4M3
from nanochat.kernels.totals import weight_grad

_EPS = torch.finfo(torch.float32).eps
"""RMSNorm's own, which torch takes for every dtype."""
_EXACT: dict[str, Any] = {"mutates_args": (), "tags": (torch.Tag.needs_exact_strides,)}


def head_problem(head_dim: int) -> str | None:
    """Returns why heads of this size cannot be served; None if they can."""
    return None if head_dim & (head_dim - 1) == 0 else f"head_dim {head_dim} is not a power of 2"


@torch.library.custom_op("nanochat::rotate_and_norm", **_EXACT)
def rotate_and_norm(qkv: Tensor, cos: Tensor, sin: Tensor, batch: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """qkv (N, 3 D), tables (T, K/2) -> queries and keys (B, T, H, K), and what normed each head (N, 2 H) fp32."""
    num_tokens, width = qkv.shape[0], qkv.shape[1] // 3
    seq_len, half = cos.shape
    q, k = (qkv.new_empty(batch, seq_len, heads, 2 * half) for _ in range(2))
    rstd = qkv.new_empty(num_tokens, 2 * heads, dtype=torch.float32)
    assert (num_tokens, width) == (batch * seq_len, heads * 2 * half)
    jitted().rotate_and_norm_kernel[(num_tokens,)](
        qkv,
        cos,
        sin,
        q,
        k,
        rstd,
        seq_len,
        qkv.stride(0),
        _EPS,
        H=heads,
        HALF=half,
        HEADS=jitted().next_power_of_2(2 * heads),
    )
    return q, k, rstd


@rotate_and_norm.register_fake
def _(qkv: Tensor, cos: Tensor, sin: Tensor, batch: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (batch, cos.shape[0], heads, 2 * cos.shape[1])
    rstd = qkv.new_empty(qkv.shape[0], 2 * heads, dtype=torch.float32)
    return qkv.new_empty(shape), qkv.new_empty(shape), rstd


@torch.library.custom_op("nanochat::rotate_and_norm_backward", **_EXACT)
def rotate_and_norm_backward(
    dq: Tensor, dk: Tensor, dv: Tensor, q: Tensor, k: Tensor, rstd: Tensor, cos: Tensor, sin: Tensor, in_fp8: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of qkv (N, 3 D); the same as e4m3 with a scale per row (N,), or empty ones without `in_fp8`."""
    num_tokens, heads, half = rstd.shape[0], q.shape[2], cos.shape[1]
    out = q.new_empty(num_tokens, 3 * heads * 2 * half)
    out8 = q.new_empty(out.shape if in_fp8 else (0, out.shape[1]), dtype=E4M3)
    scale = q.new_empty(num_tokens if in_fp8 else 0, dtype=torch.float32)
    jitted().rotate_and_norm_backward_kernel[(num_tokens,)](
        dq.contiguous(),
        dk.contiguous(),
        dv.contiguous(),
        q,
        k,
        rstd,
        cos,
        sin,
        out,
        out8,
        scale,
        cos.shape[0],
        H=heads,
        HALF=half,
        HEADS=jitted().next_power_of_2(2 * heads),
        BLOCK_V=jitted().next_power_of_2(heads * 2 * half),
        IN_FP8=in_fp8,
    )
    return out, out8, scale


@rotate_and_norm_backward.register_fake
def _(
    dq: Tensor, dk: Tensor, dv: Tensor, q: Tensor, k: Tensor, rstd: Tensor, cos: Tensor, sin: Tensor, in_fp8: bool
) -> tuple[Tensor, Tensor, Tensor]:
    num_tokens, columns = rstd.shape[0], 3 * q.shape[2] * q.shape[3]
    rows = num_tokens if in_fp8 else 0
    out = q.new_empty(num_tokens, columns)
    return out, q.new_empty(rows, columns, dtype=E4M3), q.new_empty(rows, dtype=torch.float32)


class _QueriesKeysValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        heads: int,
        x_scale: float,
        in_fp8: Tensor | None,
        transposed: Tensor | None,
        factor: Tensor | None,
        alpha: Tensor | None,
        total: Tensor | None,
        q_weight: Tensor,
        k_weight: Tensor,
        v_weight: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, seq_len, width = x.shape
        flat, weights = x.reshape(-1, width), (q_weight, k_weight, v_weight)
        if in_fp8 is None:
            qkv = flat @ torch.cat(weights).t()
        else:
            qkv = products.fp8_product((flat * x_scale).to(E4M3), in_fp8, alpha, None)
        q, k, rstd = rotate_and_norm(qkv, cos, sin, batch, heads)
        v = qkv[:, 2 * width :].view(batch, seq_len, heads, -1)
        ctx.is_fp8 = in_fp8 is not None
        backward_reads = (transposed, factor) if ctx.is_fp8 else weights
        ctx.save_for_backward(flat, q, k, rstd, cos, sin, total, *backward_reads)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, q, k, rstd, cos, sin, total, *read = ctx.saved_tensors
        dq, dk, dv = grads
        dqkv, dqkv8, scale = rotate_and_norm_backward(dq, dk, dv, q, k, rstd, cos, sin, ctx.is_fp8)
        if ctx.is_fp8:
            transposed, factor = read
            dx = products.fp8_product(dqkv8, transposed, None, scale * factor)
        else:
            dx = dqkv @ torch.cat(read)
        dw = weight_grad(total, dqkv, flat)  # (3 D, D)
        dws = (None,) * 3 if dw is None else dw.chunk(3)
        return dx.view(*q.shape[:2], -1), *((None,) * 9), *dws


def queries_keys_values(
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    cos: Tensor,
    sin: Tensor,
    heads: int,
    fp8: Any | None,
    total: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, D), three weights (D, D), tables (1, T, 1, K/2) -> queries and keys, turned and normed, and values.

    Each (B, T, H, K). `fp8` is the `Fp8Linears` of the three, for which x must have been normed; None: in bf16.
    To `total` (3 D, D) the weights' gradients are added in place of going to autograd.
    """
    tables = (table.reshape(table.shape[1], table.shape[3]) for table in (cos, sin))
    of_fp8: tuple[Any, ...] = (0.0, None, None, None, None)
    if fp8 is not None:
        of_fp8 = (fp8.x_scale, fp8.copies.q[0], fp8.copies.qt[0], fp8.copies.factor, fp8.alpha)
    out = _QueriesKeysValues.apply(x, *tables, heads, *of_fp8, total, *weights)
    assert isinstance(out, tuple)
    return out


def prepare_for_compiler() -> None:
    """To be called before a model is compiled: dynamo cannot trace this over symbolic sizes, AOTAutograd can."""
    torch.compiler.allow_in_graph(_QueriesKeysValues)
