"""A checkpoint written in the background is the moment of its save; there is one at a time, and none is cut short."""

import resource
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nanochat.checkpoints import folders as checkpoint_folders
from nanochat.checkpoints import format as checkpoint
from nanochat.checkpoints.format import CheckpointError, TrainState
from nanochat.checkpoints.host_copies import HostCopies
from nanochat.checkpoints.saving import COMPLETE, FAILED, UNDER_WAY, Saver, is_over
from nanochat.machine.ranks import Ranks
from nanochat.optimizer.groups import ParamSpec
from nanochat.optimizer.sharded import ShardedOptimizer
from nanochat.stats import Checkpoint, Hooks

ALONE = Ranks.from_environment(torch.device("cpu"))


class Run:
    """A state that changes in place with every step: weights, a buffer, a lane, the loop's numbers, random draws."""

    def __init__(self, ranks: Ranks, num_rows: int = 9) -> None:
        torch.manual_seed(3)
        matrices, self.table = nn.Parameter(torch.randn(5, 4, 6)), nn.Parameter(torch.randn(num_rows, 3))
        specs = [
            ParamSpec(name="matrices", param=matrices, kind="muon", lr=0.02),
            ParamSpec(name="table", param=self.table, kind="adamw", group="tables", lr=0.3, master=False),
        ]
        self.params = [matrices, self.table]
        self.optimizer = ShardedOptimizer(specs, ranks, compute_dtype=torch.bfloat16)
        self.bias, self.lane, self.numbers = torch.zeros(5), [0], {"steps": 0}

    def train(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.optimizer.zero_grad()
            for param in self.params:
                (param * torch.randn(param.shape)).sum().backward()
            self.optimizer.step(lr_mult=1.0, momentum=0.9, weight_decay=0.1)
            self.bias += 0.1
            self.lane.append(len(self.lane))
            self.numbers["steps"] += 1

    def state(self) -> TrainState:
        numbers = {"step": self.numbers["steps"], "config_digest": "abc"}
        return TrainState.of(self.optimizer, {"bias": self.bias}, lanes={0: self.lane}, trainer=self.numbers, **numbers)


class Shell:
    """Hooks that write below `root` while the gate is open, and note what happens when and on which thread."""

    def __init__(self, root: Path) -> None:
        self.root, self.gate, self.events = root, threading.Event(), list[str]()
        self.threads = list[int]()
        self.gate.set()

    def hooks(self) -> Hooks:
        return Hooks(
            before_save=lambda step: self.events.append(f"before {step}"),
            save=self._save,
            saved=lambda step: self.events.append(f"saved {step}"),
        )

    def saver(self, run: Run, ranks: Ranks = ALONE, *, beside_training: bool = True) -> Saver:
        return Saver(self.hooks(), run.state, ranks, beside_training=beside_training)

    def _save(self, state: Checkpoint) -> None:
        self.threads.append(threading.get_ident())
        self.events.append(f"begin {state.step}")
        assert self.gate.wait(60)
        checkpoint_folders.save(self.root, state, keep=4)
        self.events.append(f"end {state.step}")


# What is saved


def save_while_training(ranks: Ranks, root: Path) -> None:
    """The same moment twice: waited for, and held back until training has gone on."""
    run, shell = Run(ranks), Shell(root / "beside")
    run.train(2)
    with Shell(root / "at_once").saver(run, ranks, beside_training=False) as at_once, shell.saver(run, ranks) as saver:
        saver.save(last=False)  # so that the room for copies is used more than once
        saver.settle()
        run.train(1)
        at_once.save(last=False)
        shell.gate.clear()
        saver.save(last=False)
        run.train(3)
        assert saver.status == UNDER_WAY
        shell.gate.set()
        saver.settle()


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_what_is_saved_is_the_moment_of_the_save_although_training_goes_on(
    run_world: Any, tmp_path: Path, num_ranks: int
):
    run_world(save_while_training, num_ranks, tmp_path)
    beside, at_once = (tmp_path / name / "step_000003" for name in ("beside", "at_once"))
    checkpoint.verify(beside)
    names = sorted(path.name for path in at_once.iterdir())
    assert names == sorted(path.name for path in beside.iterdir())
    for name in set(names) - {"checkpoint.json", ".metadata", "order.json"}:  # these tell when they were written
        assert (beside / name).read_bytes() == (at_once / name).read_bytes(), name


def test_copies_keep_their_values_and_use_the_same_memory_every_time():
    original = torch.zeros(3)
    copies = HostCopies({"a": original})
    first = copies.take({"a": original})["a"]
    original += 1
    assert first.tolist() == [0, 0, 0]
    second = copies.take({"a": original})["a"]
    assert second.tolist() == [1, 1, 1]
    assert first.data_ptr() == second.data_ptr()


# When


def test_the_writer_is_another_thread_and_the_hooks_before_and_after_it_are_not(tmp_path: Path):
    shell, run = Shell(tmp_path), Run(ALONE)
    shell.gate.clear()
    with shell.saver(run) as saver:
        run.train(1)
        saver.save(last=False)
        assert shell.events[:1] == ["before 1"]
        assert (saver.status, saver.is_under_way) == (UNDER_WAY, True)
        assert saver.take_blocked_ms() > 0
        assert saver.take_blocked_ms() == 0
        shell.gate.set()
        saver.settle()
        assert (saver.status, saver.is_under_way) == (UNDER_WAY, False)
    assert shell.events == ["before 1", "begin 1", "end 1", "saved 1"]
    assert threading.get_ident() not in shell.threads


@pytest.mark.parametrize("beside_training", [True, False])
def test_the_last_save_is_complete_when_it_returns(tmp_path: Path, beside_training: bool):
    shell, run = Shell(tmp_path), Run(ALONE)
    with shell.saver(run, beside_training=beside_training) as saver:
        run.train(1)
        saver.save(last=True)
        checkpoint.verify(tmp_path / "step_000001")
        assert shell.events == ["before 1", "begin 1", "end 1", "saved 1"]
        assert shell.threads == [threading.get_ident()]


def test_a_second_save_waits_for_the_first_and_training_is_blocked_for_so_long(tmp_path: Path):
    shell, run = Shell(tmp_path), Run(ALONE)
    shell.gate.clear()
    with shell.saver(run) as saver:
        run.train(1)
        saver.save(last=False)
        run.train(1)
        saver.take_blocked_ms()
        threading.Timer(0.2, shell.gate.set).start()
        saver.save(last=False)
        assert shell.events[:4] == ["before 1", "begin 1", "end 1", "saved 1"]
        assert saver.take_blocked_ms() > 100
        saver.settle()
    assert shell.events[4:] == ["before 2", "begin 2", "end 2", "saved 2"]


def test_a_save_is_over_when_it_is_complete_everywhere_or_has_failed_somewhere():
    assert is_over([COMPLETE, COMPLETE])
    assert is_over([UNDER_WAY, FAILED])
    assert not is_over([COMPLETE, UNDER_WAY])
    assert not is_over([UNDER_WAY, UNDER_WAY])


# Failure and the end


@contextmanager
def no_file_above(num_bytes: int) -> Iterator[None]:
    """This process' writes fail there, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fail_on_the_last_rank(ranks: Ranks, root: Path) -> tuple[list[float], str]:
    """A good checkpoint, then one that the last rank cannot write: every rank's outcome, and this one's error."""
    run, shell = Run(ranks), Shell(root)
    with shell.saver(run, ranks) as saver:
        run.train(1)
        saver.save(last=False)
        saver.settle()
        run.train(1)
        with no_file_above(200 if ranks.rank == ranks.world_size - 1 else 10**9):
            saver.save(last=False)
            while not is_over(statuses := [row[0] for row in ranks.all_gather_floats([saver.status])]):
                run.train(1)
        with pytest.raises(CheckpointError) as raised:
            saver.settle()
        return statuses, str(raised.value)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_failed_save_is_an_error_on_all_ranks_and_leaves_the_checkpoint_before_it(
    run_world: Any, tmp_path: Path, num_ranks: int
):
    for statuses, message in run_world(fail_on_the_last_rank, num_ranks, tmp_path):
        assert FAILED in statuses
        assert message.startswith(f"cannot write model and optimizer state into {tmp_path}/.unfinished-step_000002; ")
        assert message.endswith(f"rank {num_ranks - 1}: [Errno 27] File too large; earlier checkpoints are untouched")
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]
    checkpoint.verify(tmp_path / "step_000001")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("free_bytes", [2**13, 2**20])
def test_a_full_disk_is_told_as_such_and_the_checkpoint_before_it_stays(small_disk: Path, free_bytes: int):
    run, shell = Run(ALONE, num_rows=100_000), Shell(small_disk)
    run.train(1)
    with shell.saver(run) as saver:
        saver.save(last=False)
        saver.settle()
        run.train(1)
        (small_disk / "others").write_bytes(bytes(shutil.disk_usage(small_disk).free - free_bytes))
        saver.save(last=False)
        with pytest.raises(CheckpointError, match=r"cannot write .*step_000002.*No space left on device"):
            saver.settle()
    assert sorted(path.name for path in small_disk.iterdir()) == ["others", "step_000001"]
    checkpoint.verify(small_disk / "step_000001")


def break_while_saving(saver: Saver) -> None:
    with saver:
        saver.save(last=False)
        raise ValueError("training broke")


def test_whoever_leaves_by_an_error_waits_for_the_save_that_is_under_way(tmp_path: Path):
    shell, run = Shell(tmp_path), Run(ALONE)
    shell.gate.clear()
    run.train(1)
    threading.Timer(0.2, shell.gate.set).start()
    with pytest.raises(ValueError, match="training broke"):
        break_while_saving(shell.saver(run))
    checkpoint.verify(tmp_path / "step_000001")
    assert shell.events == ["before 1", "begin 1", "end 1"], "the last hook is collective; the other ranks may be gone"


def test_a_save_that_fails_too_does_not_hide_what_ended_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shell, run = Shell(tmp_path / "file" / "folder"), Run(ALONE)
    (tmp_path / "file").touch()
    run.train(1)
    with pytest.raises(ValueError, match="training broke"):
        break_while_saving(shell.saver(run))
    assert "warning: the checkpoint at step 1 has failed too: cannot write" in capsys.readouterr().out
