"""Gradients travel once per step, in one order, while backward still runs."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from nanochat.kernels import totals
from nanochat.machine.ranks import Handle, Ranks
from nanochat.optimizer import groups as optim
from nanochat.optimizer.groups import ParamSpec
from nanochat.optimizer.sharded import ShardedOptimizer

NUM_LAYERS = 3
SIZE = 4


@dataclass(frozen=True)
class Watched(Ranks):
    """Real ranks that note when a reduction begins."""

    seen: list[str] = field(default_factory=list)

    def reduce_scatter_mean(self, flat_in: Tensor, shard_out: Tensor) -> Handle:
        self.seen.append("reduce")
        return super().reduce_scatter_mean(flat_in, shard_out)


class Chain(nn.Module):
    """Square matrices one after the other, each a bucket, which note when they get their gradient."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ParameterList(torch.randn(SIZE, SIZE) for _ in range(NUM_LAYERS))
        for i, layer in enumerate(self.layers):
            layer.register_hook(lambda _, i=i: note(f"gradient {i}"))

    def loss(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(x @ layer)
        return x.square().sum()


def _chain(ranks: Ranks, note: Callable[[str], None], *, layers_per_bucket: int = 1) -> tuple[Chain, ShardedOptimizer]:
    optim.BUCKET_ELEMENTS = layers_per_bucket * SIZE * SIZE
    chain = Chain(note)
    specs = [ParamSpec(name=n, param=p, kind="muon", lr=0.02) for n, p in chain.named_parameters()]
    return chain, ShardedOptimizer(specs, ranks, compute_dtype=torch.float32)


def _inputs(ranks: Ranks, micro_step: int) -> Tensor:
    return torch.randn(2, SIZE, generator=torch.Generator().manual_seed(10 * ranks.rank + micro_step))


def two_micro_steps(ranks: Ranks) -> list[str]:
    watched = Watched(ranks.rank, ranks.world_size, ranks.device)
    chain, optimizer = _chain(watched, watched.seen.append)
    for micro_step in range(2):
        with optimizer.micro_step(is_last=micro_step == 1):
            chain.loss(_inputs(ranks, micro_step)).backward()
        watched.seen.append("end of backward")
    optimizer.step(lr_mult=1.0, momentum=0.9, weight_decay=0.0)
    return watched.seen


FIRST = ["gradient 2", "gradient 1", "gradient 0", "end of backward"]


def test_each_bucket_is_sent_once_a_step_before_the_last_backward_goes_on(run_world):
    last = ["gradient 2", "reduce", "gradient 1", "reduce", "gradient 0", "reduce", "end of backward"]
    assert run_world(two_micro_steps, 2) == [FIRST + last] * 2


def test_alone_nothing_is_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optim, "BUCKET_ELEMENTS", optim.BUCKET_ELEMENTS)  # comes back afterwards
    alone = Ranks.from_environment(torch.device("cpu"))
    assert two_micro_steps(alone) == FIRST * 2
    chain, _optimizer = _chain(alone, lambda _: None)
    assert [layer._post_accumulate_grad_hooks for layer in chain.layers] == [None] * NUM_LAYERS, "nor watched"


def _count(times: list[int], place: int) -> None:
    times[place] += 1


def added_in_products(ranks: Ranks, is_compiled: bool) -> tuple[list[str], bool, list[int]]:
    """Layers whose gradients the products add, two to a bucket, beside the same ones through autograd."""
    watched = Watched(ranks.rank, ranks.world_size, ranks.device)
    plain, by_autograd = _chain(ranks, lambda _: None)
    chain, optimizer = _chain(watched, lambda _: None, layers_per_bucket=2)
    times_told = [0] * NUM_LAYERS
    for i, layer in enumerate(chain.layers):
        layer.register_post_accumulate_grad_hook(lambda _, i=i: _count(times_told, i))
    apply = torch.compile(totals.linear, fullgraph=True, backend="aot_eager") if is_compiled else totals.linear
    for step in range(2):
        optimizer.zero_grad()
        by_autograd.zero_grad()
        for micro_step in range(2):
            x = y = _inputs(ranks, 2 * step + micro_step)
            with optimizer.micro_step(is_last=micro_step == 1), by_autograd.micro_step(is_last=micro_step == 1):
                for layer, twin in zip(chain.layers, plain.layers, strict=True):
                    total = totals.together(layer)
                    assert total is not None
                    x, y = torch.tanh(apply(x, layer, total)), torch.tanh(y @ twin.t())
                x.square().sum().backward()
                watched.seen.append("end of backward")
                y.square().sum().backward()
        for o in (optimizer, by_autograd):
            o.step(lr_mult=1.0, momentum=0.9, weight_decay=0.1)
    is_equal = all(torch.allclose(a, b) for a, b in zip(chain.layers, plain.layers, strict=True))
    return watched.seen, is_equal, times_told


@pytest.mark.parametrize("is_compiled", [False, True])
def test_gradients_that_products_add_are_sent_from_within_backward_too(run_world, is_compiled: bool):
    seen = ["end of backward", "reduce", "reduce", "end of backward"]
    told_once_a_micro_step = [4] * NUM_LAYERS
    assert run_world(added_in_products, 2, is_compiled) == [(seen * 2, True, told_once_a_micro_step)] * 2


def early_middle(ranks: Ranks) -> list[str]:
    """On the first rank the middle layer's gradient is final before the last layer's."""
    watched = Watched(ranks.rank, ranks.world_size, ranks.device)
    chain, optimizer = _chain(watched, watched.seen.append)
    order = (1, 2, 0) if ranks.is_first else (2, 1, 0)
    with optimizer.micro_step(is_last=True):
        x = torch.ones(SIZE)
        for i in reversed(order):
            x = torch.tanh(x @ chain.layers[i])
        x.sum().backward()
    optimizer.step(lr_mult=1.0, momentum=0.9, weight_decay=0.0)
    return [*watched.seen, str([layer.sum().item() for layer in chain.layers])]


def test_a_bucket_that_is_early_on_one_rank_waits_for_its_turn(run_world):
    first, second = run_world(early_middle, 2)
    assert first[:-1] == ["gradient 1", "gradient 2", "reduce", "reduce", "gradient 0", "reduce"]
    assert second[:-1] == ["gradient 2", "reduce", "gradient 1", "reduce", "gradient 0", "reduce"]
    assert first[-1] == second[-1], "the ranks hold the same weights"


def a_layer_unused(ranks: Ranks) -> list[str]:
    watched = Watched(ranks.rank, ranks.world_size, ranks.device)
    chain, optimizer = _chain(watched, watched.seen.append)
    with optimizer.micro_step(is_last=True):
        (torch.ones(SIZE) @ chain.layers[0]).sum().backward()
    optimizer.step(lr_mult=1.0, momentum=0.9, weight_decay=0.0)
    return watched.seen


def test_buckets_without_a_gradient_are_sent_all_the_same(run_world):
    assert run_world(a_layer_unused, 2) == [["gradient 0", "reduce", "reduce", "reduce"]] * 2


def both_ways(ranks: Ranks) -> bool:
    """Three steps with gradients sent from within backward, and three with gradients sent after it."""
    chains: list[Chain] = []
    for is_overlapped in (True, False):
        chain, optimizer = _chain(ranks, lambda _: None)
        for step in range(3):
            optimizer.zero_grad()
            for micro_step in range(2):
                with optimizer.micro_step(is_last=is_overlapped and micro_step == 1):
                    chain.loss(_inputs(ranks, 2 * step + micro_step)).backward()
            optimizer.step(lr_mult=1.0, momentum=0.9, weight_decay=0.1)
        chains.append(chain)
    return all(torch.equal(a, b) for a, b in zip(chains[0].layers, chains[1].layers, strict=True))


def test_overlapping_changes_no_bit(run_world):
    assert run_world(both_ways, 3) == [True] * 3


def test_a_compiled_layer_sends_as_one_that_is_not(run_world):
    assert run_world(compiled_layers, 2) == [["reduce"] * NUM_LAYERS + ["end of backward"]] * 2


def compiled_layers(ranks: Ranks) -> list[str]:
    """Layers compiled one by one, as the trainer does it."""
    watched = Watched(ranks.rank, ranks.world_size, ranks.device)
    chain, optimizer = _chain(watched, lambda _: None)
    apply = torch.compile(lambda x, layer: torch.tanh(x @ layer), fullgraph=True, backend="aot_eager")
    with optimizer.micro_step(is_last=True):
        x = torch.ones(1, SIZE)
        for layer in chain.layers:
            x = apply(x, layer)
        x.sum().backward()
    watched.seen.append("end of backward")
    optimizer.step(lr_mult=1.0, momentum=0.9, weight_decay=0.0)
    return watched.seen
