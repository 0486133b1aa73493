"""One step means the same on any number of ranks, and leaves alone what it must not touch."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from nanochat.machine.ranks import Ranks
from nanochat.optimizer import groups as optim
from nanochat.optimizer.groups import ParamSpec
from nanochat.optimizer.sharded import ShardedOptimizer

ALONE = Ranks.from_environment(torch.device("cpu"))
NUM_MICRO_STEPS = 6


class Toy(nn.Module):
    """Seven 4 x 6 matrices (five are stacked experts), one 6 x 4, and vectors: 2 and 3 ranks do not divide them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.experts = nn.Parameter(torch.randn(5, 4, 6))
        self.left, self.right = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(4, 6))
        self.tall = nn.Parameter(torch.randn(1, 6, 4))
        self.table = nn.Parameter(torch.randn(11, 3))
        self.head, self.scalars = nn.Parameter(torch.randn(11, 3)), nn.Parameter(torch.randn(5))


def optimizer_of(toy: Toy, ranks: Ranks, compute_dtype: torch.dtype = torch.float32) -> ShardedOptimizer:
    matrices = [
        ParamSpec(name=name, param=getattr(toy, name), kind="muon", lr=0.02)
        for name in ("experts", "left", "right", "tall")
    ]
    rest = [
        ParamSpec(name="table", param=toy.table, kind="adamw", group="tables", lr=0.3, master=False),
        ParamSpec(name="head", param=toy.head, kind="adamw", group="head", lr=0.004),
        ParamSpec(name="scalars", param=toy.scalars, kind="adamw", group="scalars", lr=0.5, dtype=torch.float32),
    ]
    return ShardedOptimizer([*matrices, *rest], ranks, compute_dtype=compute_dtype)


def add_gradients(toy: Toy, step: int, micro_step: int, share: float) -> None:
    """Backward of a loss whose gradient is random but known; expert 2 gets none after the first step."""
    noise = torch.Generator().manual_seed(1000 * step + micro_step)
    loss = torch.zeros(())
    for name, param in toy.named_parameters():
        direction = torch.randn(param.shape, generator=noise)
        if name == "experts" and step > 0:
            direction[2] = 0
        loss = loss + (param.float() * direction).sum()
    (loss * share).backward()


def train(toy: Toy, optimizer: ShardedOptimizer, num_steps: int, first_step: int = 0) -> None:
    ranks = optimizer.ranks
    for step in range(first_step, first_step + num_steps):
        optimizer.zero_grad()
        for micro_step in range(ranks.rank, NUM_MICRO_STEPS, ranks.world_size):
            with optimizer.micro_step(is_last=micro_step + ranks.world_size >= NUM_MICRO_STEPS):
                add_gradients(toy, step, micro_step, share=ranks.world_size / NUM_MICRO_STEPS)
        optimizer.step(lr_mult=0.7, momentum=0.9, weight_decay=0.1)


def weights_of(toy: Toy) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in toy.named_parameters()}


def state_of(optimizer: ShardedOptimizer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}


def trained_weights(ranks: Ranks, compute_dtype: torch.dtype, bucket_elements: int) -> dict[str, Tensor]:
    optim.BUCKET_ELEMENTS = bucket_elements
    toy = Toy()
    train(toy, optimizer_of(toy, ranks, compute_dtype), num_steps=3)
    return weights_of(toy)


@pytest.mark.parametrize(("world_size", "bucket_elements"), [(2, 2**24), (2, 1), (3, 2**24), (3, 30), (5, 1)])
def test_any_number_of_ranks_makes_the_same_update_up_to_summation_order(run_world, world_size, bucket_elements):
    alone = trained_weights(ALONE, torch.float32, optim.BUCKET_ELEMENTS)
    of_ranks = run_world(trained_weights, world_size, torch.float32, bucket_elements)
    for name, wanted in alone.items():
        torch.testing.assert_close(of_ranks[0][name], wanted, rtol=1e-4, atol=1e-5)
        for others in of_ranks[1:]:
            assert torch.equal(others[name], of_ranks[0][name]), f"ranks disagree about {name}"


def test_an_expert_without_gradient_keeps_weights_and_state():
    toy = Toy()
    optimizer = optimizer_of(toy, ALONE)
    train(toy, optimizer, num_steps=1)
    weights, state = weights_of(toy), state_of(optimizer)
    train(toy, optimizer, num_steps=1, first_step=1)
    moved = (toy.experts != weights["experts"]).any(dim=(1, 2)).tolist()
    assert moved == [True, True, False, True, True]
    for kind in ("momentum", "second_moment"):
        before, after = state[f"muon.4x6.0.{kind}"], optimizer.state_dict()[f"muon.4x6.0.{kind}"]
        assert before[2].abs().max() > 0, "the first step gave it a state to keep"
        assert torch.equal(before[2], after[2])
        assert not torch.equal(before[1], after[1])


def poisoned_step(ranks: Ranks, poison: float) -> tuple[float, bool]:
    """Rank 0 alone sees a bad gradient in a matrix that the last rank may own; whether anything moved here."""
    toy = Toy()
    optimizer = optimizer_of(toy, ranks, torch.bfloat16)
    train(toy, optimizer, num_steps=1)
    weights, value = weights_of(toy), {n: t.clone() for n, t in optimizer.state_dict().items()}
    optimizer.zero_grad()
    add_gradients(toy, 1, 0, share=1.0)
    if ranks.is_first:
        assert toy.right.grad is not None
        toy.right.grad[0, 0] = poison
    done = optimizer.step(lr_mult=1.0, momentum=0.9, weight_decay=0.1)
    same_weights = all(torch.equal(now, weights[name]) for name, now in weights_of(toy).items())
    as_local = {n: getattr(t, "_local_tensor", t) for n, t in optimizer.state_dict().items()}
    same_state = all(torch.equal(as_local[n], getattr(t, "_local_tensor", t)) for n, t in value.items())
    return done.item(), same_weights and same_state


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(poison):
    assert poisoned_step(ALONE, poison) == (0.0, True)


def test_a_bad_gradient_on_one_rank_stops_the_step_of_all(run_world):
    assert run_world(poisoned_step, 3, float("nan")) == [(0.0, True)] * 3


def test_four_micro_steps_are_one_batch():
    accumulated, at_once = Toy(), Toy()
    a, b = optimizer_of(accumulated, ALONE), optimizer_of(at_once, ALONE)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
    for rows in x.split(2):
        ((rows @ accumulated.left).square().mean() / 4).backward()
    (x @ at_once.left).square().mean().backward()
    for optimizer in (a, b):
        optimizer.step(lr_mult=1.0, momentum=0.9, weight_decay=0.0)
    torch.testing.assert_close(accumulated.left, at_once.left, rtol=1e-5, atol=1e-6)


def test_bf16_weights_are_the_rounded_fp32_masters():
    toy = Toy()
    optimizer = optimizer_of(toy, ALONE, torch.bfloat16)
    initial = Toy().left.detach()
    assert torch.equal(optimizer.state_dict()["muon.4x6.0.value"][5], initial), "the exact fp32 start"
    train(toy, optimizer, num_steps=2)
    state = optimizer.state_dict()
    assert (toy.left.dtype, toy.table.dtype, toy.scalars.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert torch.equal(toy.left, state["muon.4x6.0.value"][5].bfloat16())
    assert state["muon.4x6.0.value"].dtype == torch.float32
    assert state["adamw.tables.0.value"].dtype == torch.bfloat16, "tables have no master"


def test_tall_matrices_take_longer_steps():
    square, tall = nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(16, 4))
    specs = [ParamSpec(name=str(i), param=p, kind="muon", lr=0.02) for i, p in enumerate((square, tall))]
    optimizer = ShardedOptimizer(specs, ALONE, compute_dtype=torch.float32)
    for param in (square, tall):
        assert param.grad is not None
        param.grad.copy_(torch.linalg.qr(torch.randn(param.shape)).Q)
    optimizer.step(lr_mult=1.0, momentum=0.9, weight_decay=0.0)
    assert (tall.norm() / square.norm()).item() == pytest.approx(2.0, rel=1e-3)


def test_gradients_replaced_from_outside_are_refused():
    toy = Toy()
    optimizer = optimizer_of(toy, ALONE)
    toy.zero_grad(set_to_none=True)
    with pytest.raises(RuntimeError, match=r"gradient of table .* ShardedOptimizer.zero_grad"):
        optimizer.step(lr_mult=1.0, momentum=0.9, weight_decay=0.0)


def test_specs_that_contradict_each_other_are_refused():
    matrix, vector = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(3))
    cases: list[tuple[list[tuple[str, nn.Parameter, Literal["muon", "adamw"], str]], str]] = [
        ([("a", matrix, "muon", ""), ("b", matrix, "muon", "")], "b and a are one parameter"),
        ([("a", vector, "muon", "")], r"must be \(r, c\)"),
        ([("a", vector, "adamw", "")], "needs the name of its group"),
    ]
    for wrong, words in cases:
        specs = [ParamSpec(name=n, param=p, kind=kind, lr=0.1, group=g) for n, p, kind, g in wrong]
        with pytest.raises(ValueError, match=words):
            ShardedOptimizer(specs, ALONE, compute_dtype=torch.float32)
    specs = [
        ParamSpec(name=n, param=nn.Parameter(torch.randn(2)), kind="adamw", lr=lr, group="g")
        for n, lr in (("a", 0.1), ("b", 0.2))
    ]
    with pytest.raises(ValueError, match="equal lr and betas"):
        ShardedOptimizer(specs, ALONE, compute_dtype=torch.float32)


def squares_of_step(ranks: Ranks) -> tuple[float, float]:
    """This rank's share of the squared norm, and the whole of it from the gradient of all micro-steps at once."""
    toy = Toy()
    optimizer = optimizer_of(toy, ranks)
    train(toy, optimizer, 1)
    alone = Toy()
    for micro_step in range(NUM_MICRO_STEPS):
        add_gradients(alone, 0, micro_step, share=1 / NUM_MICRO_STEPS)
    whole = sum(float(param.grad.square().sum()) for param in alone.parameters() if param.grad is not None)
    return float(optimizer.own_grad_square), whole


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_shares_of_all_ranks_add_up_to_the_norm_of_the_mean_gradient(run_world, world_size: int):
    shares = run_world(squares_of_step, world_size)
    assert sum(share for share, _ in shares) == pytest.approx(shares[0][1], rel=1e-5)
