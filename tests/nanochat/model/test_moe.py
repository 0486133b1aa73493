"""Routing, queues and dispatch against a float64 reference that goes through the tokens one by one.

Legend: N tokens, k experts per token, E experts, C queue length, D width, H hidden width.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat.config import MoEConfig, PrecisionConfig
from nanochat.model.moe import (
    ROUTER_STATS,
    MoE,
    Router,
    dispatch_bounded,
    dispatch_cut,
    dispatch_exact,
    queue_length,
    router_stats,
    sort_by_expert,
    stat_names,
    top_choices,
)

WIDTH = 16


def _moe(k: int, num_experts: int, factor: float | None, dtype: torch.dtype = torch.float32, **options: Any) -> MoE:
    moe = MoEConfig(num_experts=num_experts, top_k=k, hidden_mult=2, capacity_factor=factor, **options)
    module = MoE(WIDTH, moe, PrecisionConfig())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, WIDTH**-0.5)
        module.router.weight[:, 0] = 0
    module.experts.to(dtype)
    return module


def _steer(module: MoE, load: str) -> None:
    """Feature 0 of every token is 1, so the router's first column is a preference of its own."""
    first = module.router.weight.data[:, 0]
    if load == "uneven":
        first.copy_(torch.linspace(2, 0, len(first)))
    if load == "one is empty":
        first[-1] = -50
    if load == "one gets all":
        first[1] = 50
    if load == "ties":
        module.router.weight.data.zero_()


def _tokens(num_tokens: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(1, num_tokens, WIDTH)
    x[..., 0] = 1
    return x.to(dtype).requires_grad_()


def _kept(experts: list[list[int]], weights: list[list[float]], capacity: int) -> set[tuple[int, int]]:
    """The (token, choice) pairs inside the queues: an expert serves its highest weights, of equal ones the earliest."""
    queues: dict[int, list[tuple[float, int, int]]] = {}
    for n, row in enumerate(experts):
        for j, e in enumerate(row):
            queues.setdefault(e, []).append((-weights[n][j], n, j))
    return {(n, j) for queue in queues.values() for _, n, j in sorted(queue)[:capacity]}


def _reference(module: MoE, x: Tensor, experts: Tensor, order_by: Tensor, capacity: int) -> dict[str, Tensor]:
    """Output, balance and all gradients, in float64, of sum(output) weighted by position plus 0.3 x balance."""
    x = x.detach().double().requires_grad_()
    router, w1, w2 = (
        p.detach().double().requires_grad_() for p in (module.router.weight, module.experts.w1, module.experts.w2)
    )
    probs = torch.softmax(x[0] @ router.t(), dim=-1)  # (N, E)
    top = probs.gather(1, experts)
    weights = top if experts.shape[1] == 1 else top / top.sum(-1, keepdim=True)
    kept = _kept(experts.tolist(), order_by.tolist(), capacity)
    rows = []
    for n, row in enumerate(experts.tolist()):
        parts = [
            weights[n, j] * (w2[e] @ torch.relu(w1[e] @ x[0, n]).square()) for j, e in enumerate(row) if (n, j) in kept
        ]
        rows.append(sum(parts, torch.zeros(WIDTH, dtype=torch.float64)))
    out = torch.stack(rows)[None]
    load = torch.bincount(experts.reshape(-1), minlength=router.shape[0]) / len(rows)
    balance = router.shape[0] * (probs.mean(0) * load).sum()
    _score(out, balance).backward()
    grads = {"x": x.grad, "router": router.grad, "w1": w1.grad, "w2": w2.grad}
    return {"out": out.detach(), "balance": balance.detach()} | {n: g for n, g in grads.items() if g is not None}


def _score(out: Tensor, balance: Tensor) -> Tensor:
    return (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum() + 0.3 * balance


def _actual(module: MoE, x: Tensor) -> dict[str, Tensor]:
    out, losses, _ = module(x, module.capacity(x.shape[1]))
    balance = losses.balance
    _score(out, balance).backward()
    grads = {"x": x, "router": module.router.weight, "w1": module.experts.w1, "w2": module.experts.w2}
    return {"out": out.detach(), "balance": balance.detach()} | {
        n: p.grad for n, p in grads.items() if p.grad is not None
    }


def _assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        # Below 1: a router's gradient through the output is a difference of nearly equal terms.
        error = (actual[name].double() - value).norm() / value.norm().clamp(min=1)
        assert error < tolerance, f"{name} is off by {error:.2e}"


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory that nobody has written to reads as NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("load", ["even", "uneven", "one is empty", "one gets all", "ties"])
@pytest.mark.parametrize("factor", [None, 0.5, 1.0, 1.25])
@pytest.mark.parametrize(("k", "num_experts", "num_tokens"), [(1, 4, 21), (2, 8, 33), (3, 3, 10), (2, 5, 1)])
def test_output_and_gradients_equal_the_float64_reference(
    k: int, num_experts: int, num_tokens: int, factor: float | None, load: str
):
    torch.manual_seed(0)
    module, x = _moe(k, num_experts, factor), _tokens(num_tokens)
    _steer(module, load)
    routing = module.router(x[0].detach())
    capacity = num_tokens if factor is None else max(1, math.ceil(num_tokens * k / num_experts * factor))
    expected = _reference(module, x, routing.experts, routing.weights, capacity)
    _assert_close(_actual(module, x), expected, 1e-5)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("load", ["even", "uneven", "one is empty", "one gets all"])
@pytest.mark.parametrize("factor", [None, 1.0])
def test_bf16_experts_stay_within_rounding_of_the_reference(factor: float | None, load: str):
    torch.manual_seed(1)
    module, x = _moe(2, 8, factor, torch.bfloat16), _tokens(40, torch.bfloat16)
    _steer(module, load)
    routing = module.router(x[0].detach())
    capacity = 40 if factor is None else 10
    expected = _reference(module, x, routing.experts, routing.weights, capacity)
    actual = _actual(module, x)
    assert all(torch.isfinite(value).all() for value in actual.values())
    _assert_close(actual, expected, 2e-2)


@pytest.mark.usefixtures("poisoned_memory")
def test_an_expert_without_tokens_gets_a_gradient_of_zeros():
    torch.manual_seed(2)
    for dtype in (torch.float32, torch.bfloat16):
        for factor in (None, 1.0):
            module = _moe(2, 4, factor, dtype)
            _steer(module, "one is empty")
            grads = _actual(module, _tokens(24, dtype))
            assert grads["w1"][-1].abs().max() == 0
            assert grads["w2"][-1].abs().max() == 0


def test_a_dropped_assignment_adds_nothing_and_its_weight_gets_no_gradient():
    torch.manual_seed(3)
    module, x = _moe(1, 4, 0.25), _tokens(16)
    _steer(module, "one gets all")
    out, _, stats = module(x, module.capacity(x.shape[1]))
    out.sum().backward()
    assert x.grad is not None
    served = out[0].abs().sum(-1) > 0
    assert served.sum() == 1  # the queue is 16 x 1 / 4 x 0.25 long
    assert torch.equal(x.grad[0].abs().sum(-1) > 0, served)
    assert stats.tolist() == [15 / 16, 3, 3, 15 / 16]


def test_evaluation_drops_no_token():
    torch.manual_seed(4)
    bounded, x = _moe(2, 4, 0.5), _tokens(20)
    _steer(bounded, "uneven")
    exact = _moe(2, 4, None)
    exact.load_state_dict(bounded.state_dict())
    bounded.eval()
    assert bounded.capacity(20) is None
    out, _, stats = bounded(x, bounded.capacity(20))
    assert torch.equal(out, exact(x, None)[0])
    assert stats[0] == stats[3] == 0


@pytest.mark.parametrize("factor", [4.0, 4.5, 1e6, 1e300])
def test_a_queue_that_nothing_can_overflow_is_exact_routing(factor: float):
    torch.manual_seed(4)
    bounded, exact, x = _moe(2, 8, factor), _moe(2, 8, None), _tokens(20)
    exact.load_state_dict(bounded.state_dict())
    assert bounded.capacity(20) is None
    assert torch.equal(bounded(x, bounded.capacity(20))[0], exact(x, None)[0])
    assert _moe(2, 8, 3.79).capacity(20) == 19, "ceil(20 x 2 x 3.79 / 8)"


def test_equal_inputs_give_equal_bits():
    torch.manual_seed(5)
    for factor in (None, 1.0):
        module, x = _moe(2, 8, factor), _tokens(64)
        first = _actual(module, x)
        module.zero_grad()
        x.grad = None
        second = _actual(module, x)
        assert all(torch.equal(first[name], second[name]) for name in first)


# The router


def _random_router(top_k: int) -> tuple[Router, Tensor, Tensor]:
    """A router of 6 experts, 50 tokens, and their exact probabilities (50, 6)."""
    torch.manual_seed(6)
    router = Router(WIDTH, MoEConfig(num_experts=6, top_k=top_k))
    with torch.no_grad():
        router.weight.normal_()
    x = torch.randn(50, WIDTH)
    return router, x, torch.softmax(x.double() @ router.weight.double().t(), -1)


def test_the_router_picks_the_k_most_likely_experts_and_renormalises():
    router, x, probs = _random_router(top_k=2)
    routing = router(x)
    assert torch.equal(routing.experts, probs.topk(2).indices)
    top = probs.topk(2).values
    torch.testing.assert_close(routing.weights, (top / top.sum(-1, keepdim=True)).float())


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("factor", [None, 1.0])
@pytest.mark.parametrize("bias_rate", [0.0, 0.001])
def test_the_loss_trains_the_router_also_with_one_expert_per_token(factor: float | None, bias_rate: float):
    torch.manual_seed(6)
    module, x = _moe(1, 4, factor, router_bias_rate=bias_rate), _tokens(32)
    out, _, _ = module(x, module.capacity(32))
    (out * torch.randn_like(out)).sum().backward()
    grad = module.router.weight.grad
    assert grad is not None
    assert (grad.norm(dim=1) > 1e-3).all(), "each expert's row"


def test_one_expert_per_token_keeps_its_raw_probability():
    router, x, probs = _random_router(top_k=1)
    torch.testing.assert_close(router(x).weights, probs.max(-1, keepdim=True).values.float())


def test_balance_is_k_when_balanced_and_more_when_one_expert_is_preferred():
    router = Router(4, MoEConfig(num_experts=4, top_k=1))
    with torch.no_grad():
        router.weight.copy_(torch.eye(4))
    assert router(10 * torch.eye(4)).losses.balance.item() == pytest.approx(1, abs=1e-3)
    assert router(10 * torch.eye(4)[[0, 0, 0, 0]]).losses.balance.item() == pytest.approx(4, abs=1e-2)


def test_router_statistics_tell_drops_overload_dead_experts_and_lost_tokens():
    counts = torch.tensor([6, 2, 0, 0])  # mean load 2
    row_of_assignment = torch.tensor([[0, 1], [8, 2], [8, 8], [3, 8]])  # 8 rows: 8 means dropped
    assert router_stats(counts, row_of_assignment, 8).tolist() == [0.5, 2, 2, 0.25]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("factor", [None, 0.5])
def test_a_bias_chooses_the_experts_and_leaves_their_weights_and_all_gradients_to_the_scores(factor: float | None):
    torch.manual_seed(7)
    module, x = _moe(2, 6, factor, router_bias_rate=0.001), _tokens(40)
    assert module.router.bias is not None
    module.router.bias.copy_(torch.tensor([0.3, -0.3, 0.1, 0.0, -0.1, 0.2]))
    probs = torch.softmax(x[0].detach().double() @ module.router.weight.double().t(), -1)
    chosen = (probs + module.router.bias.double()).topk(2).indices
    assert not torch.equal(chosen, probs.topk(2).indices)
    top = probs.gather(1, chosen)
    capacity = 40 if factor is None else 7
    expected = _reference(module, x, chosen, top / top.sum(-1, keepdim=True), capacity)
    _assert_close(_actual(module, x), expected, 1e-5)


def test_a_bias_of_zeros_changes_nothing():
    torch.manual_seed(8)
    plain, biased = _moe(2, 8, 1.0), _moe(2, 8, 1.0, router_bias_rate=0.001)
    biased.load_state_dict(plain.state_dict() | {"router.bias": torch.zeros(8)})
    x = _tokens(64)
    first = _actual(plain, x)
    x.grad = None
    _assert_close(_actual(biased, x), {name: value.double() for name, value in first.items()}, 1e-6)


def test_loads_are_counted_before_dropping_over_micro_steps_and_in_training_alone():
    torch.manual_seed(9)
    module, x = _moe(2, 4, 0.5, router_bias_rate=0.001), _tokens(16)
    _steer(module, "one gets all")
    assert module.router.loads is not None
    for _ in range(2):
        module(x, module.capacity(16))
    assert (module.router.loads[1], module.router.loads.sum()) == (32, 64)
    module.eval()
    module(x, None)
    assert module.router.loads.sum() == 64


def test_the_z_loss_and_its_gradient_equal_the_float64_formula():
    torch.manual_seed(10)
    router = Router(WIDTH, MoEConfig(num_experts=6, top_k=2, router_z_loss_coeff=0.001))
    with torch.no_grad():
        router.weight.normal_()
    x = torch.randn(50, WIDTH)
    z = router(x).losses.z
    z.backward()
    weight = router.weight.detach().double().requires_grad_()
    exact = (x.double() @ weight.t()).exp().sum(-1).log().square().mean()
    exact.backward()
    assert z.item() == pytest.approx(exact.item(), rel=1e-5)
    assert router.weight.grad is not None
    assert weight.grad is not None
    torch.testing.assert_close(router.weight.grad.double(), weight.grad, rtol=1e-4, atol=1e-5)


def test_statistics_are_followed_by_those_of_the_options_in_use():
    torch.manual_seed(11)
    x = _tokens(16)
    module = _moe(2, 4, None, router_bias_rate=0.001, router_z_loss_coeff=0.1)
    assert module.router.bias is not None
    module.router.bias[2] = -0.25
    _, losses, stats = module(x, None)
    assert stat_names(module.moe) == (*ROUTER_STATS, "z_loss", "largest_bias")
    assert stats.tolist()[len(ROUTER_STATS) :] == [losses.z.item(), 0.25]
    assert not stats.requires_grad
    plain = _moe(2, 4, None)
    assert stat_names(plain.moe) == stat_names(None) == ROUTER_STATS
    assert plain(x, None)[1].z is None


# Queues


def test_a_queue_is_the_factor_times_an_even_share_rounded_up():
    assert queue_length(16_384, 2, 8, 1.0) == 4096
    assert queue_length(16_384, 2, 8, 1.25) == 5120
    assert queue_length(10, 2, 8, 1.0) == 3
    assert queue_length(1, 1, 64, 0.5) == 1
    assert queue_length(100, 1, 10, 1.1) == 11  # in floats 10 x 1.1 is a little more than 11


@st.composite
def assignments(draw: st.DrawFn) -> tuple[Tensor, Tensor, int, int]:
    """Weights of few different values (many ties), experts without repeats inside a token, E, C."""
    num_experts = draw(st.integers(1, 6))
    k = draw(st.integers(1, num_experts))
    num_tokens = draw(st.integers(1, 12))
    row = st.permutations(range(num_experts)).map(lambda p: p[:k])
    experts = torch.tensor(draw(st.lists(row, min_size=num_tokens, max_size=num_tokens)))
    values = st.lists(st.sampled_from([0.0, 1e-30, 0.25, 0.5, 1.0]), min_size=k, max_size=k)
    weights = torch.tensor(draw(st.lists(values, min_size=num_tokens, max_size=num_tokens)))
    return weights, experts, num_experts, draw(st.integers(1, num_tokens))


@settings(deadline=None, max_examples=60)
@given(assignments())
def test_no_queue_is_ever_longer_than_its_capacity_and_the_lowest_weights_are_dropped_first(
    case: tuple[Tensor, Tensor, int, int],
):
    weights, experts, num_experts, capacity = case
    order, rank, counts = sort_by_expert(weights, experts, num_experts, by_weight=True)
    token_of_row, row_of_assignment, offsets = dispatch_bounded(order, rank, experts, num_experts, capacity)
    kept = _kept(experts.tolist(), weights.tolist(), capacity)
    num_tokens, num_rows = len(weights), num_experts * capacity
    assert offsets is None
    assert len(token_of_row) == num_rows
    assert (token_of_row < num_tokens).view(num_experts, capacity).sum(1).tolist() == counts.clamp(
        max=capacity
    ).tolist()
    for n, row in enumerate(row_of_assignment.tolist()):
        for j, place in enumerate(row):
            assert (place < num_rows) == ((n, j) in kept)
            if place < num_rows:
                assert token_of_row[place] == n
                assert place // capacity == experts[n, j]


@settings(deadline=None, max_examples=60)
@given(assignments())
def test_queues_without_empty_rows_keep_what_bounded_ones_keep(case: tuple[Tensor, Tensor, int, int]):
    weights, experts, num_experts, capacity = case
    order, rank, counts = sort_by_expert(weights, experts, num_experts, by_weight=True)
    bounded = dispatch_bounded(order, rank, experts, num_experts, capacity)
    token_of_row, row_of_assignment, ends = dispatch_cut(order, rank, counts, experts, capacity)
    num_rows = min(experts.numel(), num_experts * capacity)
    assert ends is not None
    assert ends.diff(prepend=ends.new_zeros(1)).tolist() == counts.clamp(max=capacity).tolist()
    assert len(token_of_row) == num_rows
    is_kept = row_of_assignment < num_rows
    assert torch.equal(is_kept, bounded.row_of_assignment < num_experts * capacity)
    tokens = torch.arange(len(experts))[:, None].expand_as(experts)
    assert torch.equal(token_of_row[row_of_assignment[is_kept]], tokens[is_kept])
    assert torch.equal(torch.searchsorted(ends, row_of_assignment[is_kept], right=True), experts[is_kept])
    assert row_of_assignment[is_kept].sort().values.tolist() == list(range(int(ends[-1])))
    assert (token_of_row[int(ends[-1]) :] == len(experts)).all(), "rows behind the last group are empty"


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 8), st.integers(0, 10**6))
def test_the_chosen_experts_have_the_largest_scores_and_the_first_of_equal_ones_wins(
    k: int, num_experts: int, num_levels: int, seed: int
):
    k = min(k, num_experts)
    scores = torch.randint(0, num_levels, (20, num_experts), generator=torch.Generator().manual_seed(seed)) / 8
    stable = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(top_choices(scores, k), stable)


@settings(deadline=None, max_examples=60)
@given(assignments())
def test_exact_dispatch_gives_every_assignment_one_row_in_its_experts_group(case: tuple[Tensor, Tensor, int, int]):
    weights, experts, num_experts, _ = case
    order, _, counts = sort_by_expert(weights, experts, num_experts, by_weight=False)
    token_of_row, row_of_assignment, offsets = dispatch_exact(order, counts, experts.shape[1])
    assert offsets is not None
    assert row_of_assignment.reshape(-1).sort().values.tolist() == list(range(experts.numel()))
    assert torch.equal(token_of_row[row_of_assignment], torch.arange(len(experts))[:, None].expand_as(experts))
    assert torch.equal(torch.searchsorted(offsets, row_of_assignment, right=True), experts)
