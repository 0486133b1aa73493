"""A checkpoint continues bit for bit on any number of ranks; a damaged one is rejected by name."""

import json
import math
import multiprocessing
import os
import random
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nanochat.checkpoints import folders as checkpoint_folders
from nanochat.checkpoints import format as checkpoint
from nanochat.checkpoints.format import CheckpointError, TrainState
from nanochat.checkpoints.saving import Saver
from nanochat.machine.ranks import Ranks
from nanochat.optimizer.groups import ParamSpec
from nanochat.optimizer.sharded import ShardedOptimizer
from nanochat.stats import Hooks

ALONE = Ranks.from_environment(torch.device("cpu"))
NUM_LANES = 6


class Run:
    """A toy training run whose every random source and counter is in its checkpoint."""

    def __init__(self, ranks: Ranks) -> None:
        torch.manual_seed(3)
        self.experts, self.table = nn.Parameter(torch.randn(5, 4, 6)), nn.Parameter(torch.randn(9, 3))
        self.optimizer = ShardedOptimizer(
            [
                ParamSpec(name="experts", param=self.experts, kind="muon", lr=0.02),
                ParamSpec(name="table", param=self.table, kind="adamw", group="tables", lr=0.3, master=False),
            ],
            ranks,
            compute_dtype=torch.bfloat16,
        )
        self.bias = torch.zeros(5)
        self.ranks, self.step = ranks, 0
        self.lanes = {lane: [lane] for lane in range(ranks.rank, NUM_LANES, ranks.world_size)}

    def train(self, num_steps: int, draw: bool = False) -> "Run":
        """`draw`: the gradient depends on the process' random states, which only the same rank can continue."""
        for _ in range(num_steps):
            self.optimizer.zero_grad()
            for lane, history in self.lanes.items():
                noise = torch.Generator().manual_seed(100 * self.step + lane)
                extra = random.random() + np.random.rand() + torch.rand(()).item() if draw else 0.0
                for param in (self.experts, self.table):
                    direction = torch.randn(param.shape, generator=noise) + extra
                    (param * direction * self.ranks.world_size / NUM_LANES).sum().backward()
                history.append(self.step)
            self.optimizer.step(lr_mult=1.0, momentum=0.9, weight_decay=0.1)
            self.bias += 0.1
            self.step += 1
        return self

    def state(self) -> TrainState:
        return TrainState.of(
            self.optimizer,
            {"bias": self.bias},
            step=self.step,
            config_digest="abc",
            lanes=self.lanes,
            trainer={"loss_ema": math.nan, "train_time_s": 0.1 + 0.2},
        )

    def write(self, folder: Path) -> None:
        self.state().write(folder)

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.experts.detach().clone(), self.table.detach().clone(), self.bias.clone()


def continued(ranks: Ranks, folder: Path) -> Run:
    run = Run(ranks)
    for source in (random.seed, np.random.seed, torch.manual_seed):
        source(999)
    state = checkpoint.read(folder, ranks, run.optimizer, {"bias": run.bias})
    run.step = state.step
    run.lanes = {lane: history for lane, history in state.lanes.items() if lane % ranks.world_size == ranks.rank}
    return run


def _hooks_that_write_into(folder: Path) -> Hooks:
    return Hooks(save=lambda checkpoint: checkpoint.write(folder))


def assert_same(one: Any, other: Any) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_saved_and_continued_is_bit_equal_to_undisturbed(tmp_path):
    undisturbed = Run(ALONE).train(2, draw=True)
    undisturbed.write(tmp_path / "c")
    wanted = undisturbed.train(3, draw=True).weights()
    assert_same(continued(ALONE, tmp_path / "c").train(3, draw=True).weights(), wanted)


def test_the_trainers_numbers_come_back_exactly(tmp_path):
    Run(ALONE).train(2).write(tmp_path)
    state = checkpoint.read(tmp_path, ALONE, Run(ALONE).optimizer)
    assert (state.step, state.config_digest) == (2, "abc")
    assert math.isnan(state.trainer["loss_ema"])
    assert state.trainer["train_time_s"] == 0.1 + 0.2
    assert state.lanes == {lane: [lane, 0, 1] for lane in range(NUM_LANES)}


def test_writing_leaves_the_warning_filters_of_the_process_alone(tmp_path, monkeypatch):
    write_shards, seen = checkpoint.save_sharded, []

    def look_and_write(*args: Any, **settings: Any) -> Any:
        seen.append(warnings.filters)
        return write_shards(*args, **settings)

    monkeypatch.setattr(checkpoint, "save_sharded", look_and_write)
    before = warnings.filters
    Run(ALONE).train(1).write(tmp_path)
    assert seen[0] is before, "a writer thread would swap them under the training thread"


def test_torchs_remark_that_one_process_is_alone_is_silenced(tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = Run(ALONE).train(1)
        with Saver(_hooks_that_write_into(tmp_path), run.state, ALONE, beside_training=True) as saver:
            saver.save(last=True)
        continued(ALONE, tmp_path)
    assert [str(warning.message) for warning in told] == []


def start_and_write(ranks: Ranks, folder: Path, own_folder: bool) -> tuple[Any, Any]:
    """Two steps, a checkpoint, two more; weights at both moments."""
    run = Run(ranks).train(2)
    run.write(folder / str(ranks.rank) if own_folder else folder)
    return run.weights(), run.train(2).weights()


def continue_and_write(ranks: Ranks, folder: Path, new_folder: Path) -> tuple[Any, Any, Any]:
    """Weights as loaded, and after two more steps; a checkpoint of the loaded moment in `new_folder`."""
    candidates = [folder.with_name("absent"), folder]
    found, warnings = checkpoint.latest_valid(candidates, ranks)
    assert found == folder
    run = continued(ranks, folder)
    run.write(new_folder)
    return run.weights(), run.train(2).weights(), warnings


def test_two_ranks_then_one_then_three_continue_the_same_run(run_world, tmp_path):
    saved, later = run_world(start_and_write, 2, tmp_path / "two", False)[0]
    loaded, alone_later, _ = continue_and_write(ALONE, tmp_path / "two", tmp_path / "one")
    assert_same(loaded, saved)
    for loaded, three_later, remarks in run_world(continue_and_write, 3, tmp_path / "one", tmp_path / "three"):
        assert_same(loaded, saved)
        assert len(remarks) == 1, "the absent candidate, told on every rank"
        for number_of_ranks in (alone_later, three_later):
            for weights, wanted in zip(number_of_ranks, later, strict=True):
                assert (weights.float() - wanted.float()).abs().max() < 0.05, "up to bf16's summation order"
    again, _, _ = run_world(continue_and_write, 2, tmp_path / "two", tmp_path / "again")[0]
    assert_same(again, saved)
    assert_same(run_world(continue_and_write, 2, tmp_path / "three", tmp_path / "last")[0][1], later)


def test_folders_of_ranks_merge_into_one_checkpoint(run_world, tmp_path):
    saved, _ = run_world(start_and_write, 2, tmp_path, True)[1]
    with pytest.raises(CheckpointError, match=r"__1_0.distcp is missing"):
        checkpoint.verify(tmp_path / "0")
    for path in (tmp_path / "1").iterdir():
        path.rename(tmp_path / "0" / path.name)
    checkpoint.verify(tmp_path / "0")
    assert_same(continued(ALONE, tmp_path / "0").weights(), saved)


def fail_on_the_last_rank(ranks: Ranks, folder: Path) -> str:
    if not ranks.is_first:
        (folder / f"rank_{ranks.rank}.pt").mkdir()  # its file cannot be made here
    try:
        Run(ranks).write(folder)
    except CheckpointError as error:
        return str(error)
    return "written"


def test_a_failure_on_one_rank_is_an_error_on_all_and_leaves_no_checkpoint(run_world, tmp_path):
    for message in run_world(fail_on_the_last_rank, 2, tmp_path):
        assert message.startswith("cannot write the checkpoint; rank 1: ")
    with pytest.raises(CheckpointError, match=r"no checkpoint.json"):
        checkpoint.verify(tmp_path)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("__0_0.distcp", lambda b: b[:100], r"__0_0.distcp is truncated: 100 of \d+ bytes"),
        ("rank_0.pt", lambda b: b[:-1] + bytes([b[-1] ^ 1]), r"rank_0.pt is damaged: its sha256 is"),
        ("trainer.json", None, r"trainer.json is missing"),
        (".metadata", lambda b: b + b"x", r".metadata has \d+ bytes, \d+ were written"),
        ("checkpoint.json", lambda b: b[:40], r"checkpoint.json is no JSON \(40 bytes\)"),
        ("checkpoint.json", lambda _: b'{"format": 1}', r"checkpoint.json is no checkpoint index"),
        ("checkpoint.json", None, r"is no complete checkpoint"),
    ],
)
def test_a_damaged_file_is_named_and_the_previous_checkpoint_used(tmp_path, name, damage, words):
    run = Run(ALONE)
    for folder in ("older", "newer"):
        run.train(1).write(tmp_path / folder)
    path = tmp_path / "newer" / name
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=words):
        checkpoint.verify(tmp_path / "newer")
    found, warnings = checkpoint.latest_valid([tmp_path / "newer", tmp_path / "older"], ALONE)
    assert found == tmp_path / "older"
    assert len(warnings) == 1
    assert name in warnings[0]


def test_a_folder_that_holds_a_checkpoint_is_not_written_again(tmp_path):
    Run(ALONE).write(tmp_path)
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        Run(ALONE).write(tmp_path)


def test_another_models_state_is_refused(tmp_path):
    Run(ALONE).write(tmp_path)
    other = nn.Parameter(torch.randn(2, 2))
    optimizer = ShardedOptimizer(
        [ParamSpec(name="other", param=other, kind="muon", lr=0.1)], ALONE, compute_dtype=torch.float32
    )
    with pytest.raises(CheckpointError, match="does not fit this model"):
        checkpoint.read(tmp_path, ALONE, optimizer)


def test_no_candidate_means_a_fresh_start():
    assert checkpoint.latest_valid([], ALONE) == (None, [])


def write_for_ever(root: Path) -> None:
    torch.set_num_threads(1)
    run = Run(ALONE)
    while True:
        checkpoint_folders.save(root, run.train(1).state(), keep=2)


def test_killed_at_any_moment_the_newest_published_checkpoint_is_whole(tmp_path):
    for attempt in range(5):
        writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(tmp_path,))
        num_before = max((int(p.name[5:]) for p in tmp_path.glob("step_*")), default=0)
        writer.start()
        deadline = time.monotonic() + 60
        while not any(tmp_path.glob("step_*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05 + 0.013 * attempt)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        published = checkpoint_folders.newest_first(tmp_path)
        found, warnings = checkpoint.latest_valid(published, ALONE)
        assert (found, warnings) == (published[0], []), f"after {num_before} steps"
        step = json.loads((published[0] / "checkpoint.json").read_text())["step"]
        assert_same(continued(ALONE, published[0]).weights(), Run(ALONE).train(step).weights())
