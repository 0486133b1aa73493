"""How far the loader thread has run ahead never shows: no stop, no move to other ranks loses or repeats a token."""

import contextlib
import gc
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanochat.config import ConfigError, with_overrides
from nanochat.data import corpus as dataset
from nanochat.data import tokenizer
from nanochat.data.feed import Feed
from nanochat.data.lanes import Lanes
from nanochat.recipes import d12_moe, shrink_to_tiny
from nanochat.stats import Hooks, StepStats
from nanochat.train import train

CPU = torch.device("cpu")


def _feed(folder: Path, rank: int = 0, world_size: int = 1, num_lanes: int = 6) -> Feed:
    corpus = dataset.open_folder(folder)
    sizes = {"num_lanes": num_lanes, "batch_size": 2, "seq_len": 16}
    lanes = Lanes(corpus, tokenizer.load(corpus), split="train", rank=rank, world_size=world_size, **sizes)
    return Feed(lanes, CPU)


def _step(feed: Feed) -> list[Tensor]:
    """One optimizer step as the trainer takes it: each batch, and the next one sent while it is worked on."""
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


def test_the_stored_position_is_that_of_the_last_batch_served_however_far_the_thread_is_ahead(small_text: Path):
    corpus = dataset.open_folder(small_text)
    lanes = Lanes(
        corpus, tokenizer.load(corpus), split="train", num_lanes=6, rank=0, world_size=1, batch_size=2, seq_len=16
    )
    quick, slow = _feed(small_text), _feed(small_text)
    assert pickle.dumps(quick.state()) == pickle.dumps(lanes.state(lanes.positions()))
    for _ in range(3):
        for lane in lanes.my_lanes:
            lanes.next_batch(lane)
        _step(quick)
        _step(slow)
        assert pickle.dumps(quick.state()) == pickle.dumps(lanes.state(lanes.positions()))
    _wait_for_thread(slow)
    assert pickle.dumps(slow.state()) == pickle.dumps(quick.state())


def _wait_for_thread(feed: Feed) -> None:
    """Until it has packed all that it may."""
    deadline_s = time.monotonic() + 60
    while not all(packed.done() for packed in feed.ahead):
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def test_the_thread_packs_at_least_a_whole_step_ahead_and_no_further(small_text: Path):
    feed = _feed(small_text, num_lanes=12)
    feed.next()
    _wait_for_thread(feed)
    assert len(feed.ahead) == 12
    assert len(_feed(small_text, num_lanes=2).ahead) == 0, "nothing is packed before somebody asks"


def test_looking_at_a_batch_serves_nothing(small_text: Path):
    looking, plain = _feed(small_text), _feed(small_text)
    before = pickle.dumps(looking.state())
    first = looking.peek()[0].clone()
    assert torch.equal(looking.peek()[0], first)
    assert pickle.dumps(looking.state()) == before
    assert torch.equal(looking.next()[0], first)
    assert torch.equal(plain.next()[0], first)


def test_a_feed_that_is_put_elsewhere_forgets_what_was_packed(small_text: Path):
    feed, undisturbed = _feed(small_text), _feed(small_text)
    start = feed.state()
    first = _step(undisturbed)
    _step(feed)
    _step(feed)
    feed.load_state(start)
    assert _equal(_step(feed), first)


def test_the_epoch_is_that_of_the_batches_served(small_text: Path):
    feed, epochs = _feed(small_text), list[int]()
    while feed.epoch < 3:
        _step(feed)
        _wait_for_thread(feed)
        epochs.append(feed.epoch)
    first_of_second = epochs.index(2)
    resumed = _feed(small_text)
    for _ in range(first_of_second):
        _step(resumed)
    assert resumed.epoch == 1
    _step(resumed)
    assert resumed.epoch == 2


def test_a_damaged_shard_is_told_where_its_batch_is_due_and_again_at_every_further_try(
    small_text: Path, tmp_path: Path
):
    shutil.copytree(small_text, tmp_path / "text")
    shard = tmp_path / "text" / "shard_00000.parquet"
    feed = _feed(tmp_path / "text")
    data = bytearray(shard.read_bytes())
    data[4:2000] = b"\xff" * 1996
    shard.write_bytes(data)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"shard_00000.parquet is damaged: row group 0 cannot be read"):
            feed.next()


def test_closing_a_feed_ends_its_thread_and_keeps_its_position(small_text: Path):
    others = set(threading.enumerate())
    feed = _feed(small_text)
    _step(feed)
    state = pickle.dumps(feed.state())
    assert len(set(threading.enumerate()) - others) == 1
    feed.close()
    feed.close()
    assert set(threading.enumerate()) <= others
    assert pickle.dumps(feed.state()) == state


@pytest.mark.parametrize("fails", [False, True])
def test_training_ends_its_thread_however_it_ends(small_text: Path, fails: bool):
    config = with_overrides(
        shrink_to_tiny(d12_moe(num_steps=2)),
        {
            "model.vocab_size": 300,
            "compile.mode": "none",
            "data.source": str(small_text),
            "schedule.num_steps": 2,
        },
    )
    others, seen = set(threading.enumerate()), list[bool]()

    def on_step(stats: StepStats) -> None:
        seen.append(any(thread.name.startswith("loader") for thread in set(threading.enumerate()) - others))
        if fails:
            raise KeyError("a hook")

    hooks = Hooks(on_step=on_step)
    with pytest.raises(KeyError) if fails else contextlib.nullcontext():
        train(config, hooks)
    assert seen == [True] * (1 if fails else 2)
    assert set(threading.enumerate()) <= others
    gc.unfreeze()


def test_a_process_ends_though_its_feed_was_never_closed(small_text: Path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; import test_feed\n"
        "feed = test_feed._feed(Path(sys.argv[2])); feed.next(); sys.exit(7)"
    )
    argv = [sys.executable, "-c", code, str(Path(__file__).parent), str(small_text)]
    assert subprocess.run(argv, timeout=60, check=False).returncode == 7


def test_the_position_is_refused_in_the_middle_of_a_step(small_text: Path):
    feed = _feed(small_text)
    feed.next()
    with pytest.raises(AssertionError, match="between optimizer steps"):
        feed.state()
