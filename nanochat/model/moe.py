"""Mixture of experts: a router picks k experts for each token, a bounded or unbounded queue feeds each expert.

Nothing here depends on the data's values for a shape, and nothing is read back to the host: ranks, counts and offsets
stay on the device, so a block compiles as one graph and never waits.

Dispatch. Each of the N x k assignments gets a row: assignments are sorted by expert and, inside an expert, by falling
router weight (ties: earlier token first). Exact routing multiplies these ragged groups as they are. A capacity factor
c cuts every queue at C = max(1, ceil(N k c / E)) rows, so the lowest weights are dropped first, which is deterministic
and costs least; a dropped assignment adds nothing to its token. Evaluation is always exact.

Both ways, moving rows is a gather forward and a gather backward: no atomics, so results repeat bit for bit.

Legend: N tokens, k experts per token, E experts, C queue length, R rows (N k, or E C), D width, H hidden width.
"""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.config import MoEConfig, PrecisionConfig
from nanochat.kernels.grouped import fp8_grouped_linear, grouped_linear
from nanochat.kernels.hopper_layers import Fp8Experts, Places, mixed_experts
from nanochat.kernels.quantizing import QuantizedWeight
from nanochat.kernels.rows import gather_sum, runs_at_once
from nanochat.kernels.thin import thin_product
from nanochat.kernels.totals import together
from nanochat.model.kernel_choice import PLAIN, Kernels

ROUTER_STATS = ("dropped", "max_vio", "dead_experts", "lost_tokens")  # the order of router_stats


def stat_names(moe: MoEConfig | None) -> tuple[str, ...]:
    """What a layer's statistics hold, in order: ROUTER_STATS, then z_loss and largest_bias where they are in use."""
    with_z = moe is not None and moe.router_z_loss_coeff > 0
    with_bias = moe is not None and moe.router_bias_rate > 0
    return (*ROUTER_STATS, *(["z_loss"] if with_z else []), *(["largest_bias"] if with_bias else []))


class Dispatch(NamedTuple):
    """Who sits where in the experts' input."""

    token_of_row: Tensor  # (R,) int64, N where the row is empty
    row_of_assignment: Tensor  # (N, k) int64, R where the assignment was dropped
    offsets: Tensor | None  # (E,) int32 ends of the ragged groups; None: every expert has R / E rows


def queue_length(num_tokens: int, top_k: int, num_experts: int, capacity_factor: float) -> int:
    """C = max(1, ceil(N k c / E)), exactly for the factor as it is written."""
    places = num_tokens * top_k * Fraction(str(capacity_factor)) / num_experts
    return max(math.ceil(places), 1)


_WEIGHT_BITS = 30
"""What a float from 0 to 1 takes, read as an integer."""


def _sort_keys(weights: Tensor, experts: Tensor, num_experts: int) -> Tensor:
    """One number per assignment (n,), int32, that rises with the expert and, inside an expert, as the weight falls.

    A float that is not negative sorts like its bits. Beside the expert's number there is room for the first 28 of a
    weight's with 8 experts, 25 with 64.
    """
    num_bits = 31 - max(num_experts - 1, 1).bit_length()
    lightness = (0x3F800000 - weights.float().contiguous().view(torch.int32)).clamp(min=0)  # 0 for a weight of 1
    lightness = lightness >> max(_WEIGHT_BITS - num_bits, 0)
    return (experts.to(torch.int32) << num_bits) | lightness


def sort_by_expert(
    weights: Tensor, experts: Tensor, num_experts: int, *, by_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Orders assignments by expert, then, if `by_weight`, by falling weight, then by index.

    Weights that agree in their first 20 bits or more count as equal (`_sort_keys`). Exact routing drops nothing, so it
    needs no order by weight, and numbers below 256 sort in an eighth of the time.

    Args: weights (N, k) fp32, from 0 to 1; experts (N, k) int64.
    Returns: order (N k,) assignment at each sorted place; rank (N k,) place inside its expert; counts (E,).
    """
    flat_experts = experts.reshape(-1)
    if by_weight:
        keys = _sort_keys(weights.reshape(-1), flat_experts, num_experts)
    else:
        keys = flat_experts.to(torch.uint8 if num_experts <= 256 else torch.int32)
    order = torch.sort(keys, stable=True).indices  # (N k,)
    is_expert = flat_experts[:, None] == torch.arange(num_experts, device=experts.device)  # (N k, E)
    counts = is_expert.sum(0)  # (E,)
    starts = counts.cumsum(0) - counts  # (E,)
    rank = torch.arange(order.shape[0], device=order.device) - starts[flat_experts[order]]  # (N k,)
    return order, rank, counts


def dispatch_exact(order: Tensor, counts: Tensor, top_k: int) -> Dispatch:
    """Every assignment has a row; groups are ragged. order (N k,), counts (E,)."""
    row_of_assignment = torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0], device=order.device))
    return Dispatch(order // top_k, row_of_assignment.view(-1, top_k), counts.cumsum(0).to(torch.int32))


def dispatch_bounded(order: Tensor, rank: Tensor, experts: Tensor, num_experts: int, capacity: int) -> Dispatch:
    """Each expert has `capacity` rows; assignments past it have none. order, rank (N k,), experts (N, k)."""
    num_tokens, top_k = experts.shape
    num_rows = num_experts * capacity
    row = experts.reshape(-1)[order] * capacity + rank
    row = torch.where(rank < capacity, row, num_rows)  # (N k,), the dropped share one place past the end
    token_of_row = torch.full((num_rows + 1,), num_tokens, device=order.device, dtype=torch.int64)
    token_of_row = token_of_row.scatter(0, row, order // top_k)[:num_rows]
    row_of_assignment = torch.empty_like(row).scatter_(0, order, row)
    return Dispatch(token_of_row, row_of_assignment.view(num_tokens, top_k), None)


def dispatch_cut(order: Tensor, rank: Tensor, counts: Tensor, experts: Tensor, capacity: int) -> Dispatch:
    """As `dispatch_bounded`, without empty rows between groups: each has the rows that its expert serves, and no more.

    What is left of the rows lies behind the last group, where a ragged product neither reads nor writes.
    """
    num_tokens, top_k = experts.shape
    num_rows = min(num_tokens * top_k, counts.shape[0] * capacity)
    kept = counts.clamp(max=capacity)  # (E,)
    ends = kept.cumsum(0)
    row = (ends - kept)[experts.reshape(-1)[order]] + rank
    row = torch.where(rank < capacity, row, num_rows)  # (N k,), the dropped share one place past the end
    token_of_row = torch.full((num_rows + 1,), num_tokens, device=order.device, dtype=torch.int64)
    token_of_row = token_of_row.scatter(0, row, order // top_k)[:num_rows]
    row_of_assignment = torch.empty_like(row).scatter_(0, order, row)
    return Dispatch(token_of_row, row_of_assignment.view(num_tokens, top_k), ends.to(torch.int32))


def _take_rows(x: Tensor, index: Tensor) -> Tensor:
    """x[index], with zeros where the index is one past the end."""
    inside = index < x.shape[0]
    return torch.where(inside[..., None], x[torch.where(inside, index, 0)], 0)


class _Scatter(torch.autograd.Function):
    """Tokens (N, D) to rows (R, D). Backward gathers each token's rows, instead of adding into tokens by atomics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token_of_row: Tensor, row_of_assignment: Tensor, is_fused: bool) -> Tensor:
        ctx.save_for_backward(row_of_assignment)
        ctx.is_fused = is_fused
        return gather_sum(x, token_of_row[:, None]) if is_fused else _take_rows(x, token_of_row)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (row_of_assignment,) = ctx.saved_tensors
        if ctx.is_fused:
            return gather_sum(grads[0], row_of_assignment), None, None, None
        per_assignment = _take_rows(grads[0], row_of_assignment)  # (N, k, D)
        return per_assignment.float().sum(1).to(grads[0].dtype), None, None, None


class _Combine(torch.autograd.Function):
    """Rows (R, D) and router weights (N, k) to tokens (N, D). Backward gathers each row's token."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, token_of_row: Tensor, row_of_assignment: Tensor) -> Tensor:
        ctx.save_for_backward(y, weights, token_of_row, row_of_assignment)
        per_assignment = _take_rows(y, row_of_assignment)  # (N, k, D)
        return (per_assignment.float() * weights[:, :, None]).sum(1).to(y.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, weights, token_of_row, row_of_assignment = ctx.saved_tensors
        num_rows = y.shape[0]
        token_grad = _take_rows(grads[0], token_of_row).float()  # (R, D), read once for both
        weight_grad_of_row = F.pad((y.float() * token_grad).sum(1), (0, 1))  # (R + 1,), 0 for the dropped
        weights_grad = weight_grad_of_row[row_of_assignment]  # (N, k)
        weight_of_row = torch.zeros(num_rows + 1, device=y.device, dtype=torch.float32)
        weight_of_row = weight_of_row.scatter(0, row_of_assignment.reshape(-1), weights.float().reshape(-1))[:num_rows]
        y_grad = token_grad * weight_of_row[:, None]
        return y_grad.to(y.dtype), weights_grad.to(weights.dtype), None, None


class RouterLosses(NamedTuple):
    """What a router is trained by beside the cross-entropy; both differentiable."""

    balance: Tensor  # () fp32; top_k means perfect balance
    z: Tensor | None  # () fp32; None where it has no weight


class Routing(NamedTuple):
    """What the router decided for N tokens."""

    weights: Tensor  # (N, k) fp32; a token's sum is 1 if k > 1
    experts: Tensor  # (N, k) int64
    losses: RouterLosses


def top_choices(scores: Tensor, k: int) -> Tensor:
    """The columns of the k largest of each row of scores (N, E): (N, k) int64, by falling score.

    Of equal ones the first column comes first. Found one by one, which the compiler fuses with what is around it;
    torch.topk takes two kernels of its own, and lets the device choose among equal ones.
    """
    columns = torch.arange(scores.shape[1], device=scores.device)  # (E,)
    chosen: list[Tensor] = []
    for _ in range(k):
        chosen.append(scores.argmax(dim=1))  # (N,)
        scores = torch.where(columns == chosen[-1][:, None], float("-inf"), scores)
    return torch.stack(chosen, 1)


class Router(nn.Module):
    """Scores in fp32: softmax over all experts, the k best, renormalised to sum 1.

    One expert per token keeps its raw probability, as in the Switch Transformer: renormalised it would be the constant
    1, and the loss would never train the router.

    With a bias (see `router_bias`) the k best of score + bias are chosen; their weights are made of the scores alone.
    """

    def __init__(self, width: int, moe: MoEConfig, kernels: Kernels = PLAIN) -> None:
        super().__init__()
        self.on_matrix_units = kernels.own
        self.weight = nn.Parameter(torch.empty(moe.num_experts, width))
        self.top_k = moe.top_k
        self.has_z_loss = moe.router_z_loss_coeff > 0
        has_bias = moe.router_bias_rate > 0
        self.bias: Tensor | None
        self.loads: Tensor | None  # assignments per expert since the last change of the bias
        self.register_buffer("bias", torch.zeros(moe.num_experts) if has_bias else None)
        loads = torch.zeros(moe.num_experts, dtype=torch.int64) if has_bias else None
        self.register_buffer("loads", loads, persistent=False)

    def forward(self, x: Tensor) -> Routing:
        """x (N, D).

        The balance loss is the Switch Transformer's (arXiv 2101.03961) over k choices, before dropping; the z-loss is
        ST-MoE's (arXiv 2202.08906), the mean of log(sum(exp(logits)))^2.
        """
        num_experts = self.weight.shape[0]
        logits = thin_product(x, self.weight) if self.on_matrix_units else x.float() @ self.weight.float().t()  # (N, E)
        probs = F.softmax(logits, dim=-1)  # (N, E)
        every_expert = torch.arange(num_experts, device=x.device)  # (E,)
        scores = probs.detach() if self.bias is None else probs.detach() + self.bias
        experts = top_choices(scores, self.top_k)  # (N, k)
        is_expert = experts[:, :, None] == every_expert  # (N, k, E)
        top = torch.where(is_expert, probs[:, None, :], 0).sum(-1)  # (N, k)
        load = is_expert.sum((0, 1)).float() / x.shape[0]  # (E,)
        balance = num_experts * (probs.mean(0) * load).sum()
        z = torch.logsumexp(logits, dim=-1).square().mean() if self.has_z_loss else None
        weights = top if self.top_k == 1 else top / top.sum(-1, keepdim=True)
        return Routing(weights, experts, RouterLosses(balance, z))


def router_stats(counts: Tensor, row_of_assignment: Tensor, num_rows: int) -> Tensor:
    """The numbers of ROUTER_STATS, (4,) fp32. counts (E,) before dropping; row_of_assignment (N, k)."""
    mean_load = counts.sum() / counts.shape[0]
    dropped = row_of_assignment >= num_rows  # (N, k)
    return torch.stack(
        (
            dropped.float().mean(),
            counts.max() / mean_load - 1.0,
            (counts < 0.1 * mean_load).sum().float(),
            dropped.all(dim=1).float().mean(),
        )
    )


def _starts(offsets: Tensor | None, num_rows: int, num_experts: int, device: torch.device) -> Tensor:
    """Where each expert's rows begin, and the last one's end: (E + 1,) int32."""
    if offsets is not None:
        return F.pad(offsets, (1, 0))
    return torch.arange(num_experts + 1, device=device, dtype=torch.int32) * (num_rows // num_experts)


class Experts(nn.Module):
    """E two-layer MLPs with squared ReLU, their matrices stacked: w1 (E, H, D), w2 (E, D, H)."""

    def __init__(self, width: int, moe: MoEConfig, precision: PrecisionConfig, kernels: Kernels = PLAIN) -> None:
        super().__init__()
        hidden = moe.hidden_mult * width
        self.w1 = nn.Parameter(torch.empty(moe.num_experts, hidden, width))
        self.w2 = nn.Parameter(torch.empty(moe.num_experts, width, hidden))
        self.recipe = precision.recipe
        self.w1_fp8: QuantizedWeight | None = None
        self.w2_fp8: QuantizedWeight | None = None
        self.uses_fp8 = precision.experts == "fp8"
        self.uses_quack = kernels.makes_fp8(precision) if self.uses_fp8 else kernels.products == "quack"
        self.fp8: Fp8Experts | None = None  # of the products by QuACK
        self.w1_total: Tensor | None
        self.w2_total: Tensor | None
        for name in ("w1_total", "w2_total"):
            self.register_buffer(name, None, persistent=False)

    def add_in_products(self) -> None:
        """Has the products add the weights' gradients to where they are added up, if QuACK makes them."""
        if self.uses_quack:
            self.w1_total, self.w2_total = together(self.w1), together(self.w2)

    @torch.no_grad()
    def refresh_fp8(self) -> None:
        """Quantises the weights for the next micro-steps; call it after every optimizer step."""
        if not self.uses_fp8:
            return
        if self.uses_quack:
            self.fp8 = self.fp8 or Fp8Experts(self.w1, self.w2)
            self.fp8.refresh(self.w1, self.w2)
            return
        if self.w1_fp8 is None or self.w2_fp8 is None:
            self.w1_fp8 = QuantizedWeight(self.w1, self.recipe)
            self.w2_fp8 = QuantizedWeight(self.w2, self.recipe)
        self.w1_fp8.refresh(self.w1)
        self.w2_fp8.refresh(self.w2)

    def _linear(self, x: Tensor, weight: Tensor, quantized: QuantizedWeight | None, offsets: Tensor | None) -> Tensor:
        if quantized is None or not self.training:
            return grouped_linear(x, weight, offsets)
        return fp8_grouped_linear(x, weight, quantized, offsets, self.recipe)

    def forward(self, x: Tensor, offsets: Tensor | None) -> Tensor:
        """Rows (R, D), grouped by expert as `offsets` says (None: equally many each), to rows (R, D)."""
        hidden = F.relu(self._linear(x, self.w1, self.w1_fp8, offsets)).square()  # (R, H)
        return self._linear(hidden, self.w2, self.w2_fp8, offsets)

    def mixed(self, x: Tensor, weights: Tensor, dispatch: Dispatch) -> Tensor:
        """Rows x (R, D) through their experts, weighted (N, k) and added up for each token (N, D)."""
        d = dispatch
        if not self.uses_quack:
            out = _Combine.apply(self(x, d.offsets), weights, d.token_of_row, d.row_of_assignment)
            assert isinstance(out, Tensor)
            return out
        starts = _starts(d.offsets, x.shape[0], self.w1.shape[0], x.device)
        places = Places(starts, d.token_of_row, d.row_of_assignment)
        fp8 = self.fp8 if self.training else None
        return mixed_experts(x, weights, self.w1, self.w2, places, fp8, (self.w1_total, self.w2_total))


class MoE(nn.Module):
    """A router and its experts in place of an MLP."""

    def __init__(self, width: int, moe: MoEConfig, precision: PrecisionConfig, kernels: Kernels = PLAIN) -> None:
        super().__init__()
        self.router = Router(width, moe, kernels)
        self.experts = Experts(width, moe, precision, kernels)
        self.moe = moe

    def capacity(self, num_tokens: int) -> int | None:
        """The queue length C for a micro-batch of N tokens; None where routing is exact, as in every evaluation.

        A queue of N or more drops nothing, as an expert serves a token once. Then routing is exact, and no expert
        multiplies empty rows. It is not part of `forward`, because in a dynamically compiled block its formula would
        spread through every shape, and its float could not be traced.
        """
        if self.moe.capacity_factor is None or not self.training:
            return None
        length = queue_length(num_tokens, self.moe.top_k, self.moe.num_experts, self.moe.capacity_factor)
        return length if length < num_tokens else None

    def _dispatch(
        self, routing: Routing, counts: Tensor, order: Tensor, rank: Tensor, capacity: int | None
    ) -> Dispatch:
        num_tokens, num_experts = routing.experts.shape[0], self.moe.num_experts
        if capacity is not None and self.experts.uses_quack:
            return dispatch_cut(order, rank, counts, routing.experts, capacity)
        if capacity is not None:
            return dispatch_bounded(order, rank, routing.experts, num_experts, capacity)
        if self.experts.w1.dtype == torch.bfloat16:
            return dispatch_exact(order, counts, self.moe.top_k)
        # torch's grouped product compiles in bf16 only. Elsewhere queues of N rows, which nothing overflows.
        return dispatch_bounded(order, rank, routing.experts, num_experts, num_tokens)

    def _stats(self, counts: Tensor, dispatch: Dispatch, z: Tensor | None) -> Tensor:
        """The numbers of `stat_names`. In training the loads are counted for the bias, too."""
        stats = router_stats(counts, dispatch.row_of_assignment, dispatch.token_of_row.shape[0])
        router = self.router
        if router.loads is not None and self.training:
            router.loads.add_(counts)
        more = ([] if z is None else [z.detach()]) + ([] if router.bias is None else [router.bias.abs().max()])
        return torch.cat((stats, torch.stack(more))) if more else stats

    def forward(self, x: Tensor, capacity: int | None) -> tuple[Tensor, RouterLosses, Tensor]:
        """x (B, T, D) -> the experts' sum (B, T, D), the router's losses and its statistics (S,), as `stat_names` says.

        `capacity` is what the method of that name says.
        """
        tokens = x.reshape(-1, x.shape[-1])  # (N, D)
        routing = self.router(tokens)
        with torch.no_grad():
            order, rank, counts = sort_by_expert(
                routing.weights, routing.experts, self.moe.num_experts, by_weight=capacity is not None
            )
            d = self._dispatch(routing, counts, order, rank, capacity)
            stats = self._stats(counts, d, routing.losses.z)
        rows = _Scatter.apply(
            tokens, d.token_of_row, d.row_of_assignment, self.router.on_matrix_units and runs_at_once(tokens)
        )
        assert isinstance(rows, Tensor)
        return self.experts.mixed(rows, routing.weights, d).view_as(x), routing.losses, stats
