"""A run's checkpoints hold the run at their step, whatever happens beside and after; a rejected one ends the run."""

import gc
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanochat.checkpoints import folders as checkpoint_folders
from nanochat.checkpoints import format as checkpoint
from nanochat.config import TrainConfig
from nanochat.data.shards import write_shard
from nanochat.stats import Checkpoint, Hooks, StepStats
from nanochat.train import train
from tests.helpers.configs import tiny_config


@pytest.fixture(autouse=True)
def unfrozen_garbage() -> Iterator[None]:
    """The trainer freezes the collector for the life of its process; this process runs many."""
    yield
    gc.unfreeze()


def tiny(folder: Path, **overrides: Any) -> TrainConfig:
    """Six steps with bounded queues."""
    return tiny_config(folder, **({"schedule.num_steps": 6, "moe.capacity_factor": 1.0} | overrides))


class Shell:
    """Hooks over a folder; `before_write` and `after_write` are called by the writer with the checkpoint's step."""

    def __init__(self, root: Path, stop_after: int | None = None) -> None:
        self.root, self.stop_after = root, stop_after
        self.rows, self.saved = list[StepStats](), list[int]()
        self.on_row: Callable[[StepStats], None] = lambda row: None
        self.before_write: Callable[[int], None] = lambda step: None
        self.after_write: Callable[[int], None] = lambda step: None

    def run(self, config: TrainConfig) -> None:
        """Continues from the newest checkpoint in the root, if there is one."""
        train(
            config,
            Hooks(
                on_step=self._on_step,
                save=self._save,
                checkpoints=lambda: checkpoint_folders.newest_first(self.root),
                should_stop=lambda: len(self.rows) + 1 == self.stop_after,
            ),
        )

    def _on_step(self, row: StepStats) -> None:
        self.rows.append(row)
        self.on_row(row)

    def _save(self, state: Checkpoint) -> None:
        self.before_write(state.step)
        checkpoint_folders.save(self.root, state, keep=4)
        self.after_write(state.step)
        self.saved.append(state.step)


def losses(*shells: Shell) -> list[tuple[int, int, float, float]]:
    """Step, epoch and losses of the shells' rows, one after the other."""
    return [(row.step, row.epoch, row.loss, row.loss_ema) for shell in shells for row in shell.rows]


def test_a_checkpoint_written_beside_later_steps_is_that_of_a_run_that_stopped_there(small_text: Path, tmp_path: Path):
    stopped, beside, gate = Shell(tmp_path / "stopped", stop_after=2), Shell(tmp_path / "beside"), threading.Event()
    beside.before_write = lambda step: None if gate.wait(60) else pytest.fail("step 3 has not come")
    beside.on_row = lambda row: gate.set() if row.step == 3 else None
    for shell in (stopped, beside):
        shell.run(tiny(small_text, **{"run.checkpoint_every": 2, "run.final_checkpoint": True}))
    assert (stopped.saved, beside.saved) == ([2], [2, 4, 6])
    assert {row.step for row in beside.rows if "checkpoint" in row.flags} >= {2, 3}
    for name in ("__0_0.distcp", "rank_0.pt"):  # weights and moments; lanes and random states
        ours, theirs = (tmp_path / run / "step_000002" / name for run in ("beside", "stopped"))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_a_checkpoint_that_cannot_be_written_ends_the_run_at_a_step_soon_after(small_text: Path, tmp_path: Path):
    def refuse(step: int) -> None:
        if step == 4:
            raise checkpoint.CheckpointError("storage refuses step 4")

    shell = Shell(tmp_path)
    shell.before_write = refuse
    with pytest.raises(checkpoint.CheckpointError, match="storage refuses step 4"):
        shell.run(tiny(small_text, **{"schedule.num_steps": 10_000, "run.checkpoint_every": 2}))
    assert 4 <= len(shell.rows) <= 6, "at the next save at the latest"
    assert [folder.name for folder in checkpoint_folders.newest_first(tmp_path)] == ["step_000002"]
    checkpoint.verify(tmp_path / "step_000002")


def test_an_error_of_training_leaves_no_half_checkpoint(small_text: Path, tmp_path: Path):
    def break_at_step_2(row: StepStats) -> None:
        if row.step == 2:
            raise ValueError("training broke")

    shell, began = Shell(tmp_path), threading.Event()
    shell.before_write = lambda step: began.set()
    shell.on_row = break_at_step_2
    with pytest.raises(ValueError, match="training broke"):
        shell.run(tiny(small_text, **{"run.checkpoint_every": 2}))
    assert began.is_set()
    assert [path.name for path in tmp_path.iterdir()] == ["step_000002"]
    checkpoint.verify(tmp_path / "step_000002")


def test_a_run_resumed_in_a_later_epoch_sees_the_same_text_as_an_undisturbed_one(small_text: Path, tmp_path: Path):
    corpus = tmp_path / "corpus"
    shutil.copytree(small_text / "tokenizer", corpus / "tokenizer")
    paragraphs = [f"{number} {'la ' * (5 + number % 7)}" for number in range(24)]
    write_shard(corpus / "shard_00000.parquet", [paragraphs[i::4] for i in range(4)])
    write_shard(corpus / "shard_00001.parquet", [paragraphs[:2]])
    config = tiny(corpus, **{"schedule.num_steps": 16, "run.final_checkpoint": True})
    whole = Shell(tmp_path / "whole")
    whole.run(config)
    parts = [Shell(tmp_path / "parts", stop_after) for stop_after in (7, 5, None)]
    for part in parts:
        part.run(config)
    assert [part.rows[0].epoch for part in parts] == sorted({part.rows[0].epoch for part in parts})
    assert parts[-1].rows[-1].epoch >= 3
    assert losses(*parts) == losses(whole)
