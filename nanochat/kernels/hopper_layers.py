"""The layers that products on Hopper serve, with their backward passes: experts in bf16 and FP8, linears in FP8.

In FP8 the forward product and that for the input's gradient read e4m3 numbers, except that the experts' last product,
for dx, stays in bf16: quantising its operand, the widest of all, costs as much as the product saves. Weight gradients
stay in bf16.

Legend: N tokens, k experts per token, R rows of all experts, E experts, D width, H hidden width; K inner and M outer
size of a linear.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.kernels import hopper_products as products
from nanochat.kernels.combining import combine_backward
from nanochat.kernels.fp8_weights import Fp8Weight, normed_scale, row_quantized
from nanochat.kernels.quantizing import E4M3, E4M3_MAX
from nanochat.kernels.rows import gather_sum, runs_at_once
from nanochat.kernels.totals import weight_grad


class Fp8Experts(nn.Module):
    """The FP8 copies of both matrices of E experts, and what scales their products: (1,) tensors."""

    def __init__(self, w1: Tensor, w2: Tensor) -> None:
        super().__init__()
        self.w1 = Fp8Weight([w1], transposed=False)
        self.w2 = Fp8Weight([w2], transposed=True)
        self.x_scale = normed_scale(w1.shape[-1])
        self._x_norm_bound = w1.shape[-1] ** 0.5
        for name in ("alpha_up", "hidden_scale", "alpha_down"):
            self.register_buffer(name, w1.new_empty(1, dtype=torch.float32), persistent=False)
        self.alpha_up: Tensor
        self.hidden_scale: Tensor
        self.alpha_down: Tensor

    @torch.no_grad()
    def refresh(self, w1: Tensor, w2: Tensor) -> None:
        """Quantises the weights' present values; call it after every optimizer step."""
        self.w1.refresh([w1])
        self.w2.refresh([w2])
        largest_hidden = self.w1.product_bound(self._x_norm_bound).square().clamp(min=1e-12)
        torch.exp2((E4M3_MAX / largest_hidden).log2().floor(), out=self.hidden_scale)
        torch.div(self.w1.factor, self.x_scale, out=self.alpha_up)
        torch.div(self.w2.factor, self.hidden_scale, out=self.alpha_down)


class Places(NamedTuple):
    """Who sits where: the groups of rows, each row's token, and each token's rows."""

    starts: Tensor  # (E + 1,) int32
    token_of_row: Tensor  # (R,) int64, N where the row is empty
    row_of_assignment: Tensor  # (N, k) int64, R where the assignment was dropped


def _combine(y: Tensor, weights: Tensor, places: Places) -> Tensor:
    """Rows (R, D), weighted and added up for each token (N, D). The dropped add nothing."""
    rows = places.row_of_assignment
    if runs_at_once(y):
        return gather_sum(y, rows, weights)
    is_kept = rows < y.shape[0]
    chosen = y[torch.where(is_kept, rows, 0)].float()  # (N, k, D)
    return (chosen * torch.where(is_kept, weights, 0)[:, :, None]).sum(1).to(y.dtype)


def _combine_backward(
    out_grad: Tensor, y: Tensor, weights: Tensor, places: Places, in_fp8: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradient of the rows, the same in FP8 with its scales, and the gradient of the weights (N, k)."""
    num_rows = y.shape[0]
    places_of_weights = places.row_of_assignment.reshape(-1)
    weight_of_row = torch.zeros(num_rows + 1, device=y.device, dtype=torch.float32)
    weight_of_row = weight_of_row.scatter(0, places_of_weights, weights.float().reshape(-1))[:num_rows]
    dy, dy8, scale, dot = combine_backward(out_grad.contiguous(), y, weight_of_row, places.token_of_row, in_fp8)
    return dy, dy8, scale, F.pad(dot, (0, 1))[places.row_of_assignment].to(weights.dtype)


def _expert_weight_grad(total: Tensor | None, dy: Tensor, x: Tensor, starts: Tensor) -> Tensor | None:
    if total is None:
        return products.expert_weight_grad(dy, x, starts)
    products.add_expert_weight_grad(total, dy, x, starts)
    return None


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weights: Tensor,
        w1: Tensor,
        w2: Tensor,
        total1: Tensor | None,
        total2: Tensor | None,
        *places: Tensor,
    ) -> Tensor:
        starts = places[0]
        hidden = products.expert_up(x, w1, starts)
        y = products.expert_rows(hidden, w2.mT, starts)
        ctx.save_for_backward(x, weights, w1, w2, hidden, y, total1, total2, *places)
        return _combine(y, weights, Places(*places))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, w1, w2, hidden, y, total1, total2, *places = ctx.saved_tensors
        starts = places[0]
        dy, _, _, dweights = _combine_backward(grads[0], y, weights, Places(*places), False)
        dz = products.expert_up_backward(dy, w2, hidden, starts)
        dw2 = _expert_weight_grad(total2, dy, hidden, starts)
        dw1 = _expert_weight_grad(total1, dz, x, starts)
        return products.expert_rows(dz, w1, starts), dweights, dw1, dw2, *((None,) * 5)


class _ExpertsInFp8(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weights: Tensor,
        w1: Tensor,
        w2: Tensor,
        total1: Tensor | None,
        total2: Tensor | None,
        starts: Tensor,
        token_of_row: Tensor,
        row_of_assignment: Tensor,
        q1: Tensor,
        q2: Tensor,
        q2t: Tensor,
        factor2: Tensor,
        alpha_up: Tensor,
        hidden_scale: Tensor,
        alpha_down: Tensor,
        x_scale: float,
    ) -> Tensor:
        hidden, hidden8 = products.expert_up_fp8((x * x_scale).to(E4M3), q1, starts, alpha_up, hidden_scale)
        y = products.expert_rows(hidden8, q2.mT, starts, alpha_down)
        places = (starts, token_of_row, row_of_assignment)
        ctx.save_for_backward(x, weights, w1, q2t, factor2, hidden, y, total1, total2, *places)
        return _combine(y, weights, Places(*places))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, w1, q2t, factor2, hidden, y, total1, total2, *places = ctx.saved_tensors
        starts = places[0]
        dy, dy8, scale, dweights = _combine_backward(grads[0], y, weights, Places(*places), True)
        dz = products.expert_up_backward_fp8(dy8, q2t, hidden, starts, scale * factor2)
        dw2 = _expert_weight_grad(total2, dy, hidden, starts)
        dw1 = _expert_weight_grad(total1, dz, x, starts)
        return products.expert_rows(dz, w1, starts), dweights, dw1, dw2, *((None,) * 13)


def mixed_experts(
    x: Tensor,
    weights: Tensor,
    w1: Tensor,
    w2: Tensor,
    places: Places,
    fp8: Fp8Experts | None,
    totals: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """Rows x (R, D) through their experts, weighted by the router's weights (N, k) and added up: (N, D).

    An expert is relu(x w1^T)^2 w2^T. With `fp8`, x must have been normed. To `totals`, of w1 and w2, their gradients
    are added in place of going to autograd.
    """
    if fp8 is None:
        out = _Experts.apply(x, weights, w1, w2, *totals, *places)
    else:
        f = fp8
        assert f.w2.qt is not None
        scales = (f.w2.factor, f.alpha_up, f.hidden_scale, f.alpha_down, f.x_scale)
        out = _ExpertsInFp8.apply(x, weights, w1, w2, *totals, *places, f.w1.q, f.w2.q, f.w2.qt, *scales)
    assert isinstance(out, Tensor)
    return out


class Fp8Linears(nn.Module):
    """Linears of one input in FP8, as one product: the copies of their stacked weights."""

    def __init__(self, weights: list[Tensor], *, normed: bool, backward: bool = True) -> None:
        """`normed`: the input comes from RMSNorm, so its bound is known. `backward`: dx in FP8, too."""
        super().__init__()
        self.copies = Fp8Weight(weights, transposed=backward)
        self.x_scale = normed_scale(weights[0].shape[-1]) if normed else 0.0
        self.alpha: Tensor
        self.register_buffer("alpha", weights[0].new_empty(1, dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def refresh(self, weights: list[Tensor]) -> None:
        """Quantises the weights' present values; call it after every optimizer step."""
        self.copies.refresh(weights)
        torch.div(self.copies.factor, self.x_scale or 1.0, out=self.alpha)


class _LinearsInFp8(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        q: Tensor,
        qt: Tensor,
        factor: Tensor,
        alpha: Tensor,
        x_scale: float,
        total: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, qt, factor, total)
        ctx.outer_sizes = [w.shape[0] for w in weights]
        if x_scale:
            return products.fp8_product((x * x_scale).to(E4M3), q, alpha, None)
        x8, row_scale = row_quantized(x)
        return products.fp8_product(x8, q, None, row_scale * factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, qt, factor, total = ctx.saved_tensors
        dy = grads[0].contiguous()
        dy8, row_scale = row_quantized(dy)
        dx = products.fp8_product(dy8, qt, None, row_scale * factor)
        dw = weight_grad(total, dy, x)  # (M, K)
        dws = (None,) * len(ctx.outer_sizes) if dw is None else dw.split(ctx.outer_sizes)
        return dx, *((None,) * 6), *dws


def fp8_linears(x: Tensor, weights: list[Tensor], fp8: Fp8Linears, total: Tensor | None = None) -> Tensor:
    """x (N, K) times each of the weights (M_i, K), transposed, side by side: (N, sum of M_i).

    To `total`, as high as all weights, their gradients are added in place of going to autograd.
    """
    copies = fp8.copies
    assert copies.qt is not None
    out = _LinearsInFp8.apply(x, copies.q[0], copies.qt[0], copies.factor, fp8.alpha, fp8.x_scale, total, *weights)
    assert isinstance(out, Tensor)
    return out


def prepare_for_compiler() -> None:
    """To be called before a model is compiled: dynamo cannot trace these over symbolic sizes, AOTAutograd can."""
    for function in (_Experts, _ExpertsInFp8, _LinearsInFp8):
        torch.compiler.allow_in_graph(function)
