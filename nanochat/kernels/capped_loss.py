"""Soft cap, cross-entropy and its gradient in one pass over the logits, which the gradient replaces in place.

The logits are a micro-step's largest tensor by far: 32 values for each value of the residual stream's. Written by the
product, read once, written once as the gradient; a row stays in the cache between the kernel's two loops over it. No
maximum is subtracted: capped logits are in [-cap, cap], whose exponentials fp32 holds for any vocabulary.

The gradient is that of the row's own loss. What comes from above scales rows, so it is applied to the small sides of
the two backward products and not to the logits.

Legend: N tokens, D width, V padded vocabulary.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.kernels.hopper import jitted
from nanochat.kernels.quantizing import E4M3
from nanochat.kernels.totals import weight_grad

if TYPE_CHECKING:
    from nanochat.kernels.hopper_layers import Fp8Linears

_BLOCK, _NUM_WARPS = 2048, 4


def capped_loss_(logits: Tensor, targets: Tensor, vocab_size: int, cap: float, write_grad: bool) -> Tensor:
    """Cross-entropy (N,) fp32 in nats of capped `logits` (N, V); 0 where a target is -1.

    With `write_grad` the logits hold each row's own gradient afterwards: of columns past `vocab_size`, zeros.
    """
    num_rows, num_columns = logits.shape
    losses = torch.empty(num_rows, dtype=torch.float32, device=logits.device)
    if num_rows:
        jitted().capped_loss_kernel[(num_rows,)](
            logits,
            targets,
            losses,
            logits.stride(0),
            vocab_size,
            num_columns,
            cap,
            WRITE_GRAD=write_grad,
            APPROXIMATE=logits.is_cuda,
            BLOCK=min(_BLOCK, jitted().next_power_of_2(num_columns)),
            num_warps=_NUM_WARPS,
        )
    return losses


def capped_loss_reference(logits: Tensor, targets: Tensor, vocab_size: int, cap: float) -> Tensor:
    """The same losses by torch's own operators, differentiable."""
    capped = cap * torch.tanh(logits[:, :vocab_size].float() / cap)
    return F.cross_entropy(capped, targets, ignore_index=-1, reduction="none")


@torch.library.custom_op("nanochat::head_loss", mutates_args=(), tags=(torch.Tag.needs_exact_strides,))
def _head_loss(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    vocab_size: int,
    cap: float,
    write_grad: bool,
    x8: Tensor | None,
    q: Tensor | None,
    alpha: Tensor | None,
    total: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """x (N, D), weight (V, D), targets (N,) -> losses (N,) fp32, the logits' gradients (N, V), or (0, V) without.

    With e4m3 x8 (N, D) and q (V, D) the logits are their product, which alpha (1,) restores.
    """
    if x8 is None or q is None:
        logits = x @ weight.t()
    else:
        from nanochat.kernels.hopper_products import fp8_product

        logits = fp8_product(x8, q, alpha, None)
    losses = capped_loss_(logits, targets, vocab_size, cap, write_grad)
    return losses, logits if write_grad else logits.new_empty(0, weight.shape[0])


@_head_loss.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    vocab_size: int,
    cap: float,
    write_grad: bool,
    x8: Tensor | None,
    q: Tensor | None,
    alpha: Tensor | None,
    total: Tensor | None,
) -> tuple[Tensor, Tensor]:
    rows = x.shape[0] if write_grad else 0
    return x.new_empty(x.shape[0], dtype=torch.float32), x.new_empty(rows, weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, *_, total = inputs
    ctx.save_for_backward(x, weight, output[1], total)


def _backward(ctx: Any, above: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, grad, total = ctx.saved_tensors
    above = above[:, None]  # (N, 1) fp32
    dx = ((grad @ weight) * above).to(x.dtype)
    dw = weight_grad(total, grad, (x * above).to(x.dtype))
    return dx, dw, *((None,) * 8)


_head_loss.register_autograd(_backward, setup_context=_keep)


def head_loss(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    vocab_size: int,
    cap: float,
    write_grad: bool,
    fp8: "Fp8Linears | None" = None,
    total: Tensor | None = None,
) -> Tensor:
    """Losses (N,) fp32 of x (N, D) against an unembedding (V, D), with its logits in memory once.

    `write_grad` is False where no backward follows. With `fp8`, x must have been normed; both backward products stay in
    bf16. To `total` (V, D) the weight's gradient is added in place of going to autograd.
    """
    x8 = q = alpha = None
    if fp8 is not None:
        x8, q, alpha = (x.detach() * fp8.x_scale).to(E4M3), fp8.copies.q[0], fp8.alpha
    return _head_loss(x, weight, targets, vocab_size, cap, write_grad, x8, q, alpha, total)[0]
