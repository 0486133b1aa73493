"""The process of one rank, as Ray Train starts it: the only place that calls the trainer.

On a local disk a checkpoint is written straight to where it stays, without a second copy; elsewhere into a temporary
folder, which Ray Train uploads.
"""

# Ray and pyarrow are typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanochat.config import TrainConfig
from nanochat.stats import Checkpointable, Hooks, TrainResult
from sweeps.engine import stacks
from sweeps.engine.output import into_log
from sweeps.engine.rank import Rank, Task
from sweeps.engine.resume import checkpoint_name, run_name
from sweeps.records.experiment import Experiment
from sweeps.records.store import Store

TrainFunction = Callable[[TrainConfig, Hooks], TrainResult]


def run_rank(values: dict[str, Any]) -> None:
    """Ray Train's loop function. `values` holds a task's fields and, for tests, another `train` function."""
    train: TrainFunction | None = values.get("train")
    task = Task(values["experiment"], values["trial"], values["attempt"])
    experiment = Experiment.open(task.experiment)
    record = experiment.trial(task.trial)
    with into_log(record.log_path):
        stacks.enlist(experiment.store, task.trial, task.attempt)
        sys.argv = experiment.manifest.argv  # the command that this process serves; its own is Ray's
        rank = Rank(task, RayGroup(Store(record.train_uri), task.attempt))
        try:
            rank.finish((train or _trainer())(rank.config(), rank.hooks()))
        except Exception as error:
            if rank.store_error(error):
                traceback.print_exc()
            else:
                print(f"another rank ends too: {type(error).__name__}: {error}")
            raise


def _trainer() -> TrainFunction:
    from nanochat.train import train

    return train


class RayGroup:
    """The ranks of an attempt, which is one Ray Train run."""

    def __init__(self, train_store: Store, attempt: int) -> None:
        import ray.train

        self.is_first: bool = ray.train.get_context().get_world_rank() == 0
        self._store, self._attempt = train_store, attempt
        self._download: str | None = None

    def agree(self, names: list[str]) -> list[str]:
        """Collective: rank 0's list."""
        from ray.train.collective import broadcast_from_rank_zero

        return broadcast_from_rank_zero(names)

    def publish(self, state: Checkpointable) -> None:
        """Collective: every rank writes its part, then reports to Ray Train, which keeps count of checkpoints."""
        self._remove_download()
        if self._store.is_local:
            self._write_in_place(state)
        else:
            self._upload(state)

    def local_folder(self, name: str) -> Path:
        """Where the checkpoint lies, or a copy of it that lives until the next call."""
        return self._store.local_path(name) or self._fetch(name)

    def _write_in_place(self, state: Checkpointable) -> None:
        import ray.train
        from pyarrow.fs import LocalFileSystem

        folder = Path(self._store.uri, run_name(self._attempt), checkpoint_name(state.step))
        folder.mkdir(parents=True, exist_ok=True)
        state.write(folder)
        ray.train.report(
            {"step": state.step},
            checkpoint=ray.train.Checkpoint(str(folder), filesystem=LocalFileSystem()),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )

    def _upload(self, state: Checkpointable) -> None:
        import ray.train

        with tempfile.TemporaryDirectory() as folder:
            state.write(Path(folder))
            ray.train.report(
                {"step": state.step},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=checkpoint_name(state.step),
            )

    def _fetch(self, name: str) -> Path:
        import pyarrow.fs

        self._remove_download()
        self._download = tempfile.mkdtemp(prefix="checkpoint-")
        filesystem, base = pyarrow.fs.FileSystem.from_uri(self._store.uri)
        pyarrow.fs.copy_files(f"{base}/{name}", self._download, source_filesystem=filesystem)
        return Path(self._download)

    def _remove_download(self) -> None:
        if self._download is not None:
            shutil.rmtree(self._download, ignore_errors=True)
            self._download = None
