"""A batch packed ahead belongs to the data position: no stop, no move to other ranks loses or repeats a token."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanochat import dataset, tokenizer
from nanochat.dataloader import Lanes
from nanochat.feed import Feed

CPU = torch.device("cpu")


def _feed(folder: Path, rank: int = 0, world_size: int = 1, num_lanes: int = 6) -> Feed:
    corpus = dataset.open_folder(folder)
    sizes = {"num_lanes": num_lanes, "batch_size": 2, "seq_len": 16}
    lanes = Lanes(corpus, tokenizer.load(corpus), split="train", rank=rank, world_size=world_size, **sizes)
    return Feed(lanes, CPU)


def _step(feed: Feed) -> list[Tensor]:
    """One optimizer step as the trainer takes it: each batch, and the next one packed while it is worked on."""
    rows = []
    for _ in range(feed.num_micro_steps):
        inputs, targets = feed.next()
        rows.append(torch.cat((inputs, targets[:, -1:]), dim=1))
        feed.prefetch()
    return rows


def _world_step(feeds: list[Feed]) -> list[Tensor]:
    """One step of all ranks, its batches in order of lanes."""
    by_rank = [_step(feed) for feed in feeds]
    return [by_rank[lane % len(feeds)][lane // len(feeds)] for lane in range(6)]


def _equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_step_takes_one_batch_of_every_lane_of_the_rank(small_text: Path):
    assert _feed(small_text).num_micro_steps == 6
    assert _feed(small_text, rank=1, world_size=3).num_micro_steps == 2
    inputs, targets = _feed(small_text).next()
    assert inputs.shape == targets.shape == (2, 16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_prefetching_twice_or_never_serves_the_same_batches(small_text: Path):
    eager, lazy = _feed(small_text), _feed(small_text)
    for _ in range(12):
        eager.prefetch()
        eager.prefetch()
        assert torch.equal(eager.next()[0], lazy.next()[0])


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_any_number_of_ranks_sees_the_same_batches_in_every_step(small_text: Path, world_size: int):
    alone = [_feed(small_text)]
    world = [_feed(small_text, rank, world_size) for rank in range(world_size)]
    for _ in range(3):
        assert _equal(_world_step(alone), _world_step(world))


@pytest.mark.parametrize(("old_size", "new_size"), [(1, 1), (1, 3), (3, 1), (2, 3)])
def test_a_feed_resumed_on_any_number_of_ranks_goes_on_with_the_next_token(
    small_text: Path, old_size: int, new_size: int
):
    undisturbed = [_feed(small_text)]
    old = [_feed(small_text, rank, old_size) for rank in range(old_size)]
    for _ in range(3):
        _world_step(undisturbed)
        _world_step(old)
    states = {lane: state for feed in old for lane, state in feed.state().items()}
    assert sorted(states) == list(range(6))
    assert sum("ahead" in state for state in states.values()) == old_size
    new = [_feed(small_text, rank, new_size) for rank in range(new_size)]
    for feed in new:
        feed.load_state(states)
    for _ in range(3):
        assert _equal(_world_step(undisturbed), _world_step(new))


def test_a_stored_position_does_not_move_when_training_goes_on(small_text: Path):
    feed = _feed(small_text)
    _step(feed)
    states = feed.state()
    next_step = _step(feed)
    _step(feed)
    resumed = _feed(small_text)
    resumed.load_state(states)
    assert _equal(next_step, _step(resumed))


def test_the_position_is_refused_in_the_middle_of_a_step(small_text: Path):
    feed = _feed(small_text)
    feed.next()
    with pytest.raises(AssertionError, match="between optimizer steps"):
        feed.state()
