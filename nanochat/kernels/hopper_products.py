"""Products by QuACK on Hopper: the experts' six over ragged groups of rows, and plain ones in FP8.

Squared ReLU and scales are applied while a tile is still on chip. Of the experts' hidden rows only what squared ReLU
gave is kept: its root is what the backward pass needs from before it.

    forward    h = relu(x w1^T)^2        y = h w2^T
    backward   dz = (dy w2) 2 sqrt(h)    dw2 = dy^T h    dw1 = dz^T x    dx = dz w1

`starts` says where each expert's rows begin: (E + 1,) int32, from 0 to R. Groups may be empty. FP8 operands are e4m3
numbers, which a number or one number per row restores; results are bf16.

These are operators of torch, so that the compiler leaves them whole and hands them operands as they are laid out in
memory.

Legend: R rows of all experts, E experts, D width, H hidden width; N rows, K inner and M outer size of a product.
"""

from typing import Any

import torch
from torch import Tensor

from nanochat.kernels.hopper import prepare_quack
from nanochat.kernels.quantizing import E4M3

_EXACT: dict[str, Any] = {"mutates_args": (), "tags": (torch.Tag.needs_exact_strides,)}
_BF16 = torch.bfloat16


def _epilogues() -> Any:
    prepare_quack()
    from nanochat.kernels import epilogues

    return epilogues


def _gemm(a: Tensor, b: Tensor, **kwargs: Any) -> Tensor:
    prepare_quack()
    from quack.gemm_interface import gemm  # pyright: ignore[reportMissingImports]

    return gemm(a, b, tuned=False, out_dtype=_BF16, **kwargs)


@torch.library.custom_op("nanochat::expert_up", **_EXACT)
def expert_up(x: Tensor, w1: Tensor, starts: Tensor) -> Tensor:
    """x (R, D), w1 (E, H, D) -> relu(x w1^T)^2 (R, H)."""
    out = x.new_empty(x.shape[0], w1.shape[1])
    _epilogues().squared_relu(x, w1.mT, out={"D": out}, tuned=False, cu_seqlens_m=starts)
    return out


@expert_up.register_fake
def _(x: Tensor, w1: Tensor, starts: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], w1.shape[1])


@torch.library.custom_op("nanochat::expert_up_fp8", **_EXACT)
def expert_up_fp8(x: Tensor, w1: Tensor, starts: Tensor, alpha: Tensor, hidden_scale: Tensor) -> tuple[Tensor, Tensor]:
    """`expert_up` of e4m3 x and w1, restored by alpha (1,): in bf16, and times hidden_scale (1,) as e4m3."""
    hidden = x.new_empty(x.shape[0], w1.shape[1], dtype=_BF16)
    hidden8 = x.new_empty(hidden.shape)
    _epilogues().squared_relu_fp8(
        x,
        w1.mT,
        out={"D": hidden, "hidden8": hidden8},
        tuned=False,
        cu_seqlens_m=starts,
        alpha=alpha,
        hidden_scale=hidden_scale,
    )
    return hidden, hidden8


@expert_up_fp8.register_fake
def _(x: Tensor, w1: Tensor, starts: Tensor, alpha: Tensor, hidden_scale: Tensor) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], w1.shape[1])
    return x.new_empty(shape, dtype=_BF16), x.new_empty(shape, dtype=E4M3)


@torch.library.custom_op("nanochat::expert_rows", **_EXACT)
def expert_rows(x: Tensor, weight: Tensor, starts: Tensor, alpha: Tensor | None = None) -> Tensor:
    """x (R, K) times each row's own weight (E, K, M), of any strides: (R, M). alpha (1,) restores e4m3 operands."""
    return _gemm(x, weight, cu_seqlens_m=starts, alpha=1.0 if alpha is None else alpha)


@expert_rows.register_fake
def _(x: Tensor, weight: Tensor, starts: Tensor, alpha: Tensor | None = None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2], dtype=_BF16)


@torch.library.custom_op("nanochat::expert_up_backward", **_EXACT)
def expert_up_backward(dy: Tensor, w2: Tensor, hidden: Tensor, starts: Tensor) -> Tensor:
    """dy (R, D), w2 (E, D, H) and what squared ReLU gave (R, H) -> the gradient before squared ReLU (R, H)."""
    out = torch.empty_like(hidden)
    _epilogues().squared_relu_backward(dy, w2, hidden, out={"D": out}, tuned=False, cu_seqlens_m=starts)
    return out


@expert_up_backward.register_fake
def _(dy: Tensor, w2: Tensor, hidden: Tensor, starts: Tensor) -> Tensor:
    return torch.empty_like(hidden)


@torch.library.custom_op("nanochat::expert_up_backward_fp8", **_EXACT)
def expert_up_backward_fp8(dy: Tensor, w2t: Tensor, hidden: Tensor, starts: Tensor, row_scale: Tensor) -> Tensor:
    """`expert_up_backward` of e4m3 dy (R, D) and w2t (E, H, D), whose product row_scale (R,) restores."""
    out = torch.empty_like(hidden)
    _epilogues().squared_relu_backward_scaled(
        dy, w2t.mT, hidden, out={"D": out}, tuned=False, cu_seqlens_m=starts, row_scale=row_scale
    )
    return out


@expert_up_backward_fp8.register_fake
def _(dy: Tensor, w2t: Tensor, hidden: Tensor, starts: Tensor, row_scale: Tensor) -> Tensor:
    return torch.empty_like(hidden)


@torch.library.custom_op("nanochat::expert_weight_grad", **_EXACT)
def expert_weight_grad(dy: Tensor, x: Tensor, starts: Tensor) -> Tensor:
    """dy (R, M), x (R, K) -> each expert's dy^T x (E, M, K); zeros for an expert without rows."""
    return _gemm(dy.t(), x, cu_seqlens_k=starts)


@expert_weight_grad.register_fake
def _(dy: Tensor, x: Tensor, starts: Tensor) -> Tensor:
    return dy.new_empty(starts.shape[0] - 1, dy.shape[1], x.shape[1])


@torch.library.custom_op(
    "nanochat::add_expert_weight_grad", mutates_args=("total",), tags=(torch.Tag.needs_exact_strides,)
)
def add_expert_weight_grad(total: Tensor, dy: Tensor, x: Tensor, starts: Tensor) -> None:
    """Adds `expert_weight_grad` to `total` (E, M, K) as its tiles leave the chip."""
    prepare_quack()
    from quack.gemm_interface import gemm_add_inplace  # pyright: ignore[reportMissingImports]

    gemm_add_inplace(dy.t(), x, total, cu_seqlens_k=starts, tuned=False)


@add_expert_weight_grad.register_fake
def _(total: Tensor, dy: Tensor, x: Tensor, starts: Tensor) -> None:
    return None


@torch.library.custom_op("nanochat::fp8_product", **_EXACT)
def fp8_product(x: Tensor, weight: Tensor, alpha: Tensor | None, row_scale: Tensor | None) -> Tensor:
    """e4m3 x (N, K) times weight (M, K), transposed: (N, M), restored by alpha (1,) or each row by row_scale (N,)."""
    if row_scale is None:
        return _gemm(x, weight.t(), alpha=1.0 if alpha is None else alpha)
    out = x.new_empty(x.shape[0], weight.shape[0], dtype=_BF16)
    _epilogues().scaled_rows(x, weight.t(), out={"D": out}, tuned=False, row_scale=row_scale[None])
    return out


@fp8_product.register_fake
def _(x: Tensor, weight: Tensor, alpha: Tensor | None, row_scale: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], dtype=_BF16)


@torch.library.custom_op("nanochat::symmetric_product", **_EXACT)
def symmetric_product(
    a: Tensor, b: Tensor, alpha: float = 1.0, added: Tensor | None = None, beta: float = 1.0
) -> Tensor:
    """alpha a b + beta `added` (n, r, r): a (n, r, c) and b (n, c, r) have a symmetric product, made by half."""
    prepare_quack()
    from quack.gemm_interface import gemm_symmetric  # pyright: ignore[reportMissingImports]

    return gemm_symmetric(a, b, C=added, alpha=alpha, beta=beta)


@symmetric_product.register_fake
def _(a: Tensor, b: Tensor, alpha: float = 1.0, added: Tensor | None = None, beta: float = 1.0) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[1], a.shape[1])
