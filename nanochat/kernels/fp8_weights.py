"""A weight's copies in e4m3 for Hopper's FP8 products, remade in place after every optimizer step.

One factor restores a whole weight. Activations and products need no measured scale then: what RMSNorm leaves is bounded
by its definition, and what a weight makes of it by the weight's longest row. An e4m3 number is as precise at a
hundredth of the largest value as at the largest, so a bound that is rarely reached costs nothing.

Two passes: one over the values for the largest and the longest row, one that writes both copies from the same tile.

Legend: E experts (1 for a linear), M outer and K inner size, D width.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nanochat.kernels.hopper import jitted
from nanochat.kernels.quantizing import E4M3, E4M3_MAX

BOUND_MARGIN = 1.1
"""Room for the rounding of both operands above a bound that holds for exact ones."""


def normed_scale(width: int) -> float:
    """The factor that brings what RMSNorm leaves of `width` values, at most sqrt(width), into e4m3's range."""
    return 2.0 ** math.floor(math.log2(E4M3_MAX / math.sqrt(width)))


def row_quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, K) as e4m3, and what restores each row (N,) fp32. Rows of zeros stay zeros."""
    scale = x.abs().amax(dim=1).float().clamp(min=1e-30) / E4M3_MAX  # (N,)
    return (x.float() / scale[:, None]).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), scale


class Fp8Weight(nn.Module):
    """The copies of a weight (E, M, K), or of several with equal K stacked: `q` (E, M, K), `qt` (E, K, M) if wanted.

    `factor` (1,) restores a value. Everything is allocated once and refreshed in place: a compiled block and a recorded
    micro-step keep their inputs.
    """

    def __init__(self, weights: Sequence[Tensor], *, transposed: bool) -> None:
        """The weights (M, K) or (E, M, K) say sizes and device alone; their values are read by `refresh`."""
        super().__init__()
        num_experts = weights[0].shape[0] if weights[0].ndim == 3 else 1
        rows, k = sum(w.shape[-2] for w in weights), weights[0].shape[-1]
        new: Any = weights[0].new_empty
        self.q: Tensor
        self.qt: Tensor | None
        self.factor: Tensor
        self.extremes: Tensor
        self.register_buffer("q", new(num_experts, rows, k, dtype=E4M3), persistent=False)
        qt = new(num_experts, k, rows, dtype=E4M3) if transposed else None
        self.register_buffer("qt", qt, persistent=False)
        self.register_buffer("factor", new(1, dtype=torch.float32), persistent=False)
        self.register_buffer("extremes", new(2, dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def refresh(self, weights: Sequence[Tensor]) -> None:
        """Quantises the weights' present values."""
        self.extremes.zero_()
        for weight in weights:
            _raise_extremes(weight, self.extremes)
        first_row = 0
        for weight in weights:
            _write_copies(weight, self.q, self.qt, self.extremes, first_row)
            first_row += weight.shape[-2]
        torch.mul(self.extremes[:1].clamp(min=1e-12), 1 / E4M3_MAX, out=self.factor)

    def product_bound(self, norm_bound: float) -> Tensor:
        """The largest magnitude (1,) of this weight times a vector no longer than `norm_bound`."""
        return self.extremes[1:].sqrt() * (norm_bound * BOUND_MARGIN)


def _raise_extremes(weight: Tensor, extremes: Tensor) -> None:
    num_rows, k = weight.numel() // weight.shape[-1], weight.shape[-1]
    rows, block = 4, min(1024, jitted().next_power_of_2(k))
    jitted().extremes_kernel[(jitted().cdiv(num_rows, rows),)](weight, extremes, num_rows, k, ROWS=rows, BLOCK=block)


def _write_copies(weight: Tensor, q: Tensor, qt: Tensor | None, extremes: Tensor, first_row: int) -> None:
    num_experts, rows_of_copy, k = q.shape
    m, block = weight.shape[-2], 64
    grid = (jitted().cdiv(m, block), jitted().cdiv(k, block), num_experts)
    jitted().copies_kernel[grid](
        weight,
        q,
        q if qt is None else qt,
        extremes,
        first_row,
        m,
        k,
        rows_of_copy,
        HAS_TRANSPOSED=qt is not None,
        BLOCK_M=block,
        BLOCK_K=block,
    )
