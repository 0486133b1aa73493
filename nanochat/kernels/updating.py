"""The elementwise parts of the optimizer by kernels of our own: what `optimizer.updates` writes down, in fewer passes.

They are the same compiled and not. Where weights are rounded into what the model computes with (`sent`), the update
writes that as well.

Legend: n matrices, r rows, c columns, m numbers.
"""

from typing import Any

import torch
from torch import Tensor

from nanochat.kernels.hopper import jitted

_BLOCK = 4096
_LOOPS = 4


def _kernels() -> Any:
    from nanochat.kernels import triton_updates

    return triton_updates


def extents(grads: Tensor) -> tuple[Tensor, Tensor]:
    """max |g|, infinite where one is NaN, and the sum of squares of each item (n, ...): (n,) fp32."""
    num_items = grads.shape[0]
    if grads.numel() == 0:
        return grads.new_zeros(num_items, dtype=torch.float32), grads.new_zeros(num_items, dtype=torch.float32)
    size = grads.numel() // num_items
    parts = jitted().cdiv(size, _BLOCK * _LOOPS)
    largest, square = (grads.new_empty(num_items, parts, dtype=torch.float32) for _ in range(2))
    _kernels().extents_kernel[(num_items, parts)](grads, largest, square, size, BLOCK=_BLOCK, LOOPS=_LOOPS, num_warps=8)
    return largest.amax(1), square.sum(1)


def adamw_apply(
    value: Tensor,
    sent: Tensor | None,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    factors: Tensor,
    eps: float,
) -> None:
    """One step of Adam (m,) in place. factors (5,) fp32: active, both averages' weights, the step, 1 / second bias."""
    size = value.numel()
    block = 2048
    _kernels().adamw_kernel[(jitted().cdiv(size, block),)](
        value,
        value if sent is None else sent,
        grad,
        exp_avg,
        exp_avg_sq,
        factors,
        size,
        eps,
        SENDS=sent is not None,
        BLOCK=block,
        num_warps=8,
    )


def muon_direction(
    grad: Tensor, momentum_buffer: Tensor, *, active: Tensor, momentum: Tensor, margin: float, dtype: torch.dtype
) -> Tensor:
    """Where Nesterov momentum points (n, r, c) in `dtype`, of norm 1 / margin; moves `momentum_buffer` in place."""
    n, size = grad.shape[0], grad.shape[1] * grad.shape[2]
    parts = jitted().cdiv(size, _BLOCK)
    squares = grad.new_empty(n, parts, dtype=torch.float32)
    active, momentum = active.reshape(n).float().contiguous(), momentum.float()
    grid = (n, parts)
    _kernels().momentum_kernel[grid](grad, momentum_buffer, squares, active, momentum, size, BLOCK=_BLOCK, num_warps=8)
    scale = 1 / (squares.sum(1).sqrt() * margin + 1e-7)
    direction = torch.empty_like(grad, dtype=dtype)
    _kernels().direction_kernel[grid](
        grad, momentum_buffer, direction, scale, active, momentum, size, BLOCK=_BLOCK, num_warps=8
    )
    return direction


def muon_apply(
    value: Tensor,
    sent: Tensor | None,
    update: Tensor,
    second_moment: Tensor,
    *,
    lr: Tensor,
    active: Tensor,
    weight_decay: Tensor,
    beta2: float,
) -> None:
    """Evens out the neurons of an orthogonal `update` (n, r, c) and takes the step, in place."""
    n, r, c = update.shape
    by_row = second_moment.shape[2] == 1
    num_neurons = second_moment.shape[1] * second_moment.shape[2]
    energy, factor = (update.new_empty(n, num_neurons, dtype=torch.float32) for _ in range(2))
    cdiv, next_power = jitted().cdiv, jitted().next_power_of_2
    if by_row:
        _kernels().row_energy_kernel[(cdiv(n * r, 4),)](
            update, energy, n * r, c, ROWS=4, BLOCK=min(1024, next_power(c))
        )
    else:
        _kernels().column_energy_kernel[(n, cdiv(c, 64))](update, energy, r, c, ROWS=32, COLUMNS=64)
    active = active.reshape(n).float().contiguous()
    _kernels().neuron_factors_kernel[(n,)](
        energy, second_moment, factor, active, num_neurons, 1 - beta2, BLOCK=next_power(num_neurons)
    )
    _kernels().muon_kernel[(n, cdiv(r * c, _BLOCK))](
        value,
        value if sent is None else sent,
        update,
        factor,
        (lr.reshape(n) * active).contiguous(),
        weight_decay.float(),
        r * c,
        num_neurons,
        C=c,
        BY_ROW=by_row,
        SENDS=sent is not None,
        BLOCK=_BLOCK,
        num_warps=8,
    )
