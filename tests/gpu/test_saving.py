"""A checkpoint of a GPU's state is written in the background, also while a CUDA graph is recorded."""

import threading
from pathlib import Path

import pytest
import torch

from nanochat.checkpoints import format as checkpoint
from nanochat.checkpoints.host_copies import HostCopies
from nanochat.config import TrainConfig
from nanochat.stats import Checkpoint, Hooks, StepStats
from nanochat.train import train
from tests.helpers.configs import card_config

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("fresh_process")]


def _config() -> TrainConfig:
    """One micro-step a step, so that the third step is the one that is recorded."""
    return card_config(
        **{
            "model.depth": 2,
            "model.aspect_ratio": 64,
            "data.total_batch_tokens": 1024,
            "run.deterministic": True,
            "run.checkpoint_every": 2,
        }
    )


class Shell:
    """The checkpoint at step 2 is written again and again until the row of step `until` has come."""

    def __init__(self, root: Path, until: int, stop_after: int | None = None) -> None:
        self.root, self.until, self.stop_after = root, until, stop_after
        self.rows, self.gate, self.num_written = list[StepStats](), threading.Event(), 0

    def run(self, config: TrainConfig) -> None:
        train(
            config,
            Hooks(
                on_step=self._on_step,
                save=self._save,
                should_stop=lambda: len(self.rows) + 1 == self.stop_after,
            ),
        )

    def _on_step(self, row: StepStats) -> None:
        self.rows.append(row)
        if row.step == self.until:
            self.gate.set()

    def _save(self, state: Checkpoint) -> None:
        if state.step != 2:
            return
        while self.num_written == 0 or not self.gate.is_set():
            state.write(self.root / str(self.num_written))
            self.num_written += 1


def test_a_writer_at_work_disturbs_no_recording_and_writes_the_state_of_its_step(tmp_path: Path):
    stopped, beside = Shell(tmp_path / "stopped", until=0, stop_after=2), Shell(tmp_path / "beside", until=3)
    for shell in (stopped, beside):
        shell.run(_config())
    assert len(beside.rows) == 6
    assert [row.loss for row in beside.rows[:2]] == [row.loss for row in stopped.rows]
    for number in range(beside.num_written):
        folder = tmp_path / "beside" / str(number)
        checkpoint.verify(folder)
        for name in ("__0_0.distcp", "rank_0.pt"):
            assert (folder / name).read_bytes() == (tmp_path / "stopped" / "0" / name).read_bytes(), (number, name)


def test_copies_of_a_gpus_tensors_are_pinned_and_hold_while_the_originals_change(gpu: torch.device):
    original = torch.arange(2**20, device=gpu)
    copies = HostCopies({"a": original})
    copy = copies.take({"a": original})["a"]
    original.zero_()
    torch.cuda.synchronize()
    assert copy.is_pinned()
    assert torch.equal(copy, torch.arange(2**20))
