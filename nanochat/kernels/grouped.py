"""Products of grouped rows: each row of a batch times the weight of its own expert, in bf16 or in FP8.

Rows lie grouped by expert. Groups are ragged, with `offsets` that say where each ends, or all of one length.

If there is no FP8 matrix unit (a CPU) values are quantised and dequantised, so that the rounding is the same and
only the speed is not.

Legend: R rows of all experts, E experts, K inner and M outer size of a product.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.kernels.quantizing import QuantizedWeight, quantize


# The kernels below want their operands row-major. As custom operators they get them so; the compiler is otherwise free
# to lay out an intermediate as it likes.
@torch.library.custom_op("nanochat::scaled_grouped_mm", mutates_args=(), tags=(torch.Tag.needs_exact_strides,))
def _scaled_grouped_mm(x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor, offsets: Tensor) -> Tensor:
    """e4m3 rows (R, K) times their expert's e4m3 weight (E, M, K); scales (R,) and (E, M) restore. (R, M) bf16."""
    return torch.ops.aten._scaled_grouped_mm(
        x,
        weight.transpose(1, 2),
        x_scale,
        weight_scale,
        offs=offsets,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,  # without it this kernel is three times slower
    )


@_scaled_grouped_mm.register_fake
def _(x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1], dtype=torch.bfloat16)


@torch.library.custom_op("nanochat::grouped_weight_grad", mutates_args=(), tags=(torch.Tag.needs_exact_strides,))
def _grouped_weight_grad(dy: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    """dy (R, M) and x (R, K), ragged over experts -> each expert's dy^T x (E, M, K), in bf16."""
    return F.grouped_mm(dy.t(), x, offs=offsets)


@_grouped_weight_grad.register_fake
def _(dy: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty(offsets.shape[0], dy.shape[1], x.shape[1])


def _grouped_product(x: Tensor, weight_q: Tensor, weight_scale: Tensor, offsets: Tensor | None, recipe: str) -> Tensor:
    """Rows of `x` times their expert's weight (E, M, K) in FP8 with fp32 accumulation: (R, M) in bf16.

    Without `offsets`, x holds equally many rows for each expert.
    """
    x_q, x_scale = quantize(x, (1,) if recipe == "rowwise" else (0, 1))
    if x.is_cuda:
        if offsets is None:
            rows = x.shape[0] // weight_q.shape[0]
            offsets = torch.arange(1, weight_q.shape[0] + 1, device=x.device, dtype=torch.int32) * rows
        row_scale = x_scale.squeeze(1).expand(x.shape[0]).contiguous()
        return _scaled_grouped_mm(x_q, weight_q, row_scale, weight_scale, offsets)
    x_hat = (x_q.float() * x_scale).to(x.dtype)
    weight_hat = (weight_q.float() * weight_scale[:, :, None]).to(x.dtype)
    return grouped_linear(x_hat, weight_hat, offsets)


def grouped_linear(x: Tensor, weight: Tensor, offsets: Tensor | None) -> Tensor:
    """Rows of `x` (R, K) times their expert's `weight` (E, M, K), transposed: (R, M).

    `offsets` (E,) int32 says where each expert's rows end; None: every expert has R / E rows.
    """
    if offsets is None:
        binned = x.view(weight.shape[0], -1, x.shape[1])  # (E, R/E, K)
        return torch.bmm(binned, weight.transpose(1, 2)).view(x.shape[0], weight.shape[1])
    return F.grouped_mm(x, weight.transpose(1, 2), offs=offsets)


class _Fp8GroupedLinear(torch.autograd.Function):
    """`grouped_linear` with forward and dX in FP8 and dW in bf16 (its FP8 would need transposed activations)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, q: Tensor, qs: Tensor, qt: Tensor, qts: Tensor, offsets: Any, recipe: str
    ) -> Tensor:
        ctx.save_for_backward(x, qt, qts, offsets)
        ctx.num_experts, ctx.recipe = weight.shape[0], recipe
        return _grouped_product(x, q, qs, offsets, recipe)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, qt, qts, offsets = ctx.saved_tensors
        dy = grads[0].contiguous()
        dx = _grouped_product(dy, qt, qts, offsets, ctx.recipe)
        if offsets is None:
            shape = (ctx.num_experts, -1)
            dw = torch.bmm(dy.view(*shape, dy.shape[1]).transpose(1, 2), x.view(*shape, x.shape[1]))
        else:
            dw = _grouped_weight_grad(dy, x, offsets)
        return dx, dw, None, None, None, None, None, None


def prepare_for_compiler() -> None:
    """To be called before a model is compiled. Imports the compiler."""
    torch.compiler.allow_in_graph(_Fp8GroupedLinear)  # dynamo cannot trace it over symbolic sizes; AOTAutograd can


def fp8_grouped_linear(
    x: Tensor, weight: Tensor, quantized: QuantizedWeight, offsets: Tensor | None, recipe: str
) -> Tensor:
    """`grouped_linear` in FP8; `quantized` holds the current copies of `weight`."""
    w = quantized
    out = _Fp8GroupedLinear.apply(x, weight, w.q, w.q_scale, w.qt, w.qt_scale, offsets, recipe)
    assert isinstance(out, Tensor)
    return out
