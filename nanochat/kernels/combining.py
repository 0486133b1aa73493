"""What the experts' rows get back from their tokens' gradients, in one pass: the rows' gradients and the router's.

Legend: N tokens, k experts per token, R rows of all experts, D width.
"""

import torch
from torch import Tensor

from nanochat.kernels.hopper import jitted
from nanochat.kernels.quantizing import E4M3


@torch.library.custom_op("nanochat::combine_backward", mutates_args=(), tags=(torch.Tag.needs_exact_strides,))
def combine_backward(
    out_grad: Tensor, y: Tensor, weight_of_row: Tensor, token_of_row: Tensor, in_fp8: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out_grad (N, D), y (R, D), weight_of_row (R,) fp32, token_of_row (R,), N where a row is empty.

    Returns the gradient of y (R, D); the same as e4m3 with a scale per row (R,), or empty ones without `in_fp8`; and
    each row's product with its token's gradient (R,) fp32, which is the gradient of its weight.
    """
    num_rows, width = y.shape
    dy, dot = torch.empty_like(y), y.new_empty(num_rows, dtype=torch.float32)
    dy8 = y.new_empty(num_rows if in_fp8 else 0, width, dtype=E4M3)
    scale = y.new_empty(num_rows if in_fp8 else 0, dtype=torch.float32)
    if num_rows:
        jitted().combine_backward_kernel[(num_rows,)](
            out_grad,
            y,
            weight_of_row,
            token_of_row,
            dy,
            dy8,
            scale,
            dot,
            out_grad.shape[0],
            width,
            BLOCK=jitted().next_power_of_2(width),
            IN_FP8=in_fp8,
            num_warps=2,
        )
    return dy, dy8, scale, dot


@combine_backward.register_fake
def _(
    out_grad: Tensor, y: Tensor, weight_of_row: Tensor, token_of_row: Tensor, in_fp8: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_rows, width = y.shape
    rows = num_rows if in_fp8 else 0
    fp32 = torch.float32
    return (
        torch.empty_like(y),
        y.new_empty(rows, width, dtype=E4M3),
        y.new_empty(rows, dtype=fp32),
        y.new_empty(num_rows, dtype=fp32),
    )
