"""How a weight moves, given its gradient: Muon for matrices, AdamW for the rest, as pure tensor functions.

Muon steps along the momentum with all its singular values set to about one. The orthogonal factor comes from Polar
Express (Amsel et al., arXiv 2505.16932): odd quintic polynomials, each the best one for the interval that its
predecessors leave; the coefficients are derived here. NorMuon (Li et al., arXiv 2510.05491) then evens out the neurons
by a running second moment and keeps the update's Frobenius norm. Weight decay is cautious: it acts only where it pulls
a weight the way the update does.

`active` is 1 where a weight takes part in this step and 0 where neither it nor its state may change: a matrix without
any gradient, or everything after a gradient that is not finite. Hyperparameters are 0-d tensors, so that the
elementwise parts compile once (`Kernels`) and nothing makes the host wait.

Shapes: n matrices, r rows, c columns; a neuron is a row of a tall matrix, a column of a wide one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nanochat.kernels import updating
from nanochat.kernels.hopper_products import symmetric_product

NORMUON_BETA2 = 0.95
ADAMW_EPS = 1e-10
_POLAR_ITERATIONS = 5
_POLAR_LOWEST = 1e-3  # singular values below this share of the norm are not promised to reach one
_POLAR_CUSHION = 0.02407  # the interval's ends stay within this ratio: milder first polynomials
_POLAR_MARGIN = 1.01  # head-room for bf16's rounding, except after the last iteration

_SYMMETRIC_TILE = 128  # rows; what such a kernel works on at a time


def _best_odd_quintic(low: float, high: float) -> tuple[float, float, float]:
    """The a, b, c with the least max |1 - (ax + bx^3 + cx^5)| over [low, high], by Remez exchange."""
    if low / high > 1 - 5e-6:
        return 15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5
    left, right = (3 * low + high) / 4, (low + 3 * high) / 4
    for _ in range(100):
        points = np.array([low, left, right, high])
        system = np.stack([points, points**3, points**5, [1.0, -1.0, 1.0, -1.0]], axis=1)
        a, b, c, _error = np.linalg.solve(system, np.ones(4))
        root = np.sqrt(9 * b * b - 20 * a * c)
        extremes = np.sqrt((-3 * b - root) / (10 * c)), np.sqrt((-3 * b + root) / (10 * c))
        moved = abs(extremes[0] - left) + abs(extremes[1] - right)
        left, right = extremes
        if moved < 1e-15:
            break
    return float(a), float(b), float(c)


def _polar_coefficients() -> tuple[tuple[float, float, float], ...]:
    """One (a, b, c) per iteration, for matrices of Frobenius norm at most one."""
    low, high = _POLAR_LOWEST, 1.0
    found: list[tuple[float, float, float]] = []
    for iteration in range(_POLAR_ITERATIONS):
        a, b, c = _best_odd_quintic(max(low, _POLAR_CUSHION * high), high)
        at_low, at_high = (a * x + b * x**3 + c * x**5 for x in (low, high))  # the image's two ends
        centre = 2 / (at_low + at_high)
        low, high = centre * at_low, centre * at_high
        margin = 1.0 if iteration == _POLAR_ITERATIONS - 1 else _POLAR_MARGIN
        found.append((centre * a / margin, centre * b / margin**3, centre * c / margin**5))
    return tuple(found)


POLAR_COEFFICIENTS = _polar_coefficients()


def orthogonal_factor(y: Tensor, *, by_half: bool = False) -> Tensor:
    """About U V^T of each matrix U S V^T of `y` (n, r, c), whose Frobenius norms are at most one, in its dtype.

    `by_half`: on Hopper with QuACK, products that are symmetric are computed by half, if a half is worth a kernel.
    """
    tall = y.size(-2) > y.size(-1)
    by_half = by_half and min(y.size(-2), y.size(-1)) % _SYMMETRIC_TILE == 0
    for a, b, c in POLAR_COEFFICIENTS:
        left, right = (y.mT, y) if tall else (y, y.mT)  # the smaller side
        if by_half:
            gram = symmetric_product(left, right)
            poly = symmetric_product(gram, gram, c, gram, b)
        else:
            gram = left @ right
            poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        y = torch.baddbmm(y, y, poly, beta=a) if tall else torch.baddbmm(y, poly, y, beta=a)
    return y


def neuron_dim(rows: int, cols: int) -> int:
    """The dimension that a neuron's weights lie along: averaging over it leaves one number per neuron."""
    return -1 if rows >= cols else -2


def muon_direction(
    grad: Tensor, momentum_buffer: Tensor, *, active: Tensor, momentum: Tensor, dtype: torch.dtype
) -> Tensor:
    """Where Nesterov momentum points, in `dtype`, scaled to a Frobenius norm just under one.

    Moves `momentum_buffer` in place.
    """
    grad = torch.where(active > 0, grad.float(), 0.0)
    momentum_buffer.lerp_(grad, (1 - momentum) * active)
    direction = torch.lerp(grad, momentum_buffer, momentum)
    norm = direction.square().sum(dim=(-2, -1), keepdim=True).sqrt()
    return (direction / (norm * _POLAR_MARGIN + 1e-7)).to(dtype)


def muon_apply(
    value: Tensor,
    sent: Tensor | None,
    update: Tensor,
    second_moment: Tensor,
    *,
    lr: Tensor,
    active: Tensor,
    weight_decay: Tensor,
) -> None:
    """Evens out the neurons of an orthogonal `update` and takes the step, in place, and in `sent`, which is rounded."""
    update = update.float()
    energy = update.square().mean(dim=neuron_dim(value.size(-2), value.size(-1)), keepdim=True)
    second_moment.lerp_(energy, (1 - NORMUON_BETA2) * active)
    scale = second_moment.clamp_min(1e-10).rsqrt()
    total = energy.sum(dim=(-2, -1), keepdim=True)
    scaled_total = (energy * scale.square()).sum(dim=(-2, -1), keepdim=True)
    update = update * (scale * (total / scaled_total.clamp_min(1e-20)).sqrt())
    agrees = (update * value) >= 0
    value.sub_(lr * active * (update + weight_decay * value * agrees))
    if sent is not None:
        sent.copy_(value)


def extents(grads: Tensor) -> tuple[Tensor, Tensor]:
    """max |g| (n,) of each item (n, ...), not finite where one is not, and the sums of squares, both in fp32.

    torch's own infinity norm is ten times slower on a CPU.
    """
    flat = grads.flatten(1)
    largest = torch.maximum(flat.amax(1), -flat.amin(1)).float()
    return largest, torch.linalg.vector_norm(flat, dim=1, dtype=torch.float32).square()


def adamw_apply(
    value: Tensor,
    sent: Tensor | None,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: Tensor,
    active: Tensor,
    betas: tuple[Tensor, Tensor],
    biases: tuple[Tensor, Tensor],
) -> None:
    """One step of Adam without weight decay, in place, and in `sent`, which is rounded.

    A bias is 1 - beta^step. `value` may be bf16.
    """
    grad = torch.where(active > 0, grad.float(), 0.0)
    exp_avg.lerp_(grad, (1 - betas[0]) * active)
    exp_avg_sq.lerp_(grad.square(), (1 - betas[1]) * active)
    denominator = (exp_avg_sq / biases[1]).sqrt() + ADAMW_EPS
    value.copy_(value.float() - lr * active / biases[0] * (exp_avg / denominator))
    if sent is not None:
        sent.copy_(value)


def _own_adamw(
    value: Tensor,
    sent: Tensor | None,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: Tensor,
    active: Tensor,
    betas: tuple[Tensor, Tensor],
    biases: tuple[Tensor, Tensor],
) -> None:
    weights = ((1 - beta) * active for beta in betas)
    factors = torch.stack([f.float() for f in (active, *weights, lr * active / biases[0], 1 / biases[1])])
    updating.adamw_apply(value, sent, grad, exp_avg, exp_avg_sq, factors=factors, eps=ADAMW_EPS)


@dataclass(frozen=True)
class UpdateKernels:
    """The update rules as they run: as written, with their elementwise parts fused by torch.compile, or our own."""

    direction: Callable[..., Tensor] = muon_direction
    apply: Callable[..., None] = muon_apply
    adamw: Callable[..., None] = adamw_apply
    extents: Callable[[Tensor], tuple[Tensor, Tensor]] = extents
    by_half: bool = False
    chunk_elements: int = 2**25  # an update goes through a rank's part in pieces of this size: temporary memory

    @staticmethod
    def compiled(*, by_half: bool) -> "UpdateKernels":
        """For GPUs. Sizes are symbolic, so all groups share a few graphs; the matrix products stay as they are.

        `by_half` is explained in `orthogonal_factor`.
        """
        return UpdateKernels(
            direction=torch.compile(muon_direction, dynamic=True),
            apply=torch.compile(muon_apply, dynamic=True),
            adamw=torch.compile(adamw_apply, dynamic=True),
            extents=torch.compile(extents, dynamic=True),
            by_half=by_half,
        )

    @staticmethod
    def own(*, by_half: bool) -> "UpdateKernels":
        """For GPUs with Triton: the kernels of `kernels.updating`, which need no compiler."""
        return UpdateKernels(
            direction=partial(updating.muon_direction, margin=_POLAR_MARGIN),
            apply=partial(updating.muon_apply, beta2=NORMUON_BETA2),
            adamw=_own_adamw,
            extents=updating.extents,
            by_half=by_half,
            chunk_elements=2**27,  # needs no temporary values in fp32, and fills the GPU with fewer products
        )

    def muon(
        self,
        value: Tensor,
        sent: Tensor | None,
        grad: Tensor,
        momentum_buffer: Tensor,
        second_moment: Tensor,
        *,
        lr: Tensor,
        active: Tensor,
        momentum: Tensor,
        weight_decay: Tensor,
        work_dtype: torch.dtype,
    ) -> None:
        """One Muon step of `value` (n, r, c), in place, with its state; `lr` and `active` are (n, 1, 1)."""
        direction = self.direction(grad, momentum_buffer, active=active, momentum=momentum, dtype=work_dtype)
        update = orthogonal_factor(direction, by_half=self.by_half and work_dtype == torch.bfloat16)
        self.apply(value, sent, update, second_moment, lr=lr, active=active, weight_decay=weight_decay)
