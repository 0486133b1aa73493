"""The process of one rank, as Ray Train starts it: the only place that calls the trainer.

On a local disk a checkpoint is written straight to where it stays, without a second copy; elsewhere into a temporary
folder, and from there into storage. Both happen in the background. Ray Train learns when it is complete: its report is
a barrier that belongs to the training thread.
"""

# Ray and pyarrow are typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

import contextlib
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanochat.config import TrainConfig
from nanochat.loop.waiting import Landmarks
from nanochat.stats import CHECKPOINT_INDEX, Checkpoint, Hooks, TrainResult
from sweeps.engine.processes import scratch
from sweeps.engine.processes.output import into_log
from sweeps.engine.processes.storage_retry import or_lost
from sweeps.engine.ranks import stacks
from sweeps.engine.ranks.rank import Rank, RankTask
from sweeps.records.checkpoints import checkpoint_name, run_name
from sweeps.records.experiment import Experiment
from sweeps.records.store import Store

TrainFunction = Callable[[TrainConfig, Hooks], TrainResult]


def run_rank(values: dict[str, Any]) -> None:
    """Ray Train's loop function. `values` holds a task's fields and, for tests, another `train` function."""
    train: TrainFunction | None = values.get("train")
    task = RankTask(values["experiment"], values["trial"], values["attempt"], values["owner_number"])
    experiment = or_lost(f"experiment {task.experiment} cannot be read", lambda: Experiment.open(task.experiment))
    record = experiment.trial(task.trial)
    with contextlib.ExitStack() as output:
        or_lost("the log cannot be written", lambda: output.enter_context(into_log(record.open_log())))
        stacks.enlist(experiment.store, task.trial, task.attempt, Landmarks.here(__file__, run_rank.__name__))
        sys.argv = experiment.manifest.argv  # the command that this process serves; its own is Ray's
        group = RayGroup(record.train_store, task.attempt)
        rank = Rank(task, group)
        try:
            with rank.running():
                result = (train or _trainer())(rank.config(), rank.hooks())
            rank.finish(result)
        except Exception as error:
            if rank.store_error(error):
                traceback.print_exc()
            else:
                print(f"another rank ends too: {type(error).__name__}: {error}")
            raise
        finally:
            group.remove_download()


def _trainer() -> TrainFunction:
    from nanochat.train import train

    return train


class RayGroup:
    """The ranks of an attempt, which is one Ray Train run."""

    def __init__(self, train_store: Store, attempt: int) -> None:
        import ray.train

        context = ray.train.get_context()
        self.is_first: bool = context.get_world_rank() == 0
        storage: Any = context.get_storage()  # its file system, or Ray Train takes a checkpoint for a foreign one
        self._filesystem, self._run_folder = storage.storage_filesystem, storage.experiment_fs_path
        self._store, self._attempt = train_store, attempt
        self._download: Path | None = None

    def agree(self, names: list[str]) -> list[str]:
        """Collective: rank 0's list."""
        from ray.train.collective import broadcast_from_rank_zero

        return broadcast_from_rank_zero(names)

    def write(self, checkpoint: Checkpoint) -> None:
        """Collective, in the background."""
        self.remove_download()
        name = f"{run_name(self._attempt)}/{checkpoint_name(checkpoint.step)}"
        store_checkpoint(checkpoint, self._store, name, removes=self.is_first)

    def report(self, step: int) -> None:
        """Collective, on the training thread: Ray Train counts the checkpoint, which is where it stays already."""
        import ray.train

        ray.train.report(
            {"step": step},
            checkpoint=ray.train.Checkpoint(self._place(step), filesystem=self._filesystem),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )

    def _place(self, step: int) -> str:
        """A checkpoint's path in Ray Train's file system."""
        return f"{self._run_folder}/{checkpoint_name(step)}"

    def local_folder(self, name: str) -> Path:
        """Where the checkpoint lies, or a copy of it that lives until the next call."""
        return self._store.local_path(name) or self._fetch(name)

    def _fetch(self, name: str) -> Path:
        self.remove_download()
        self._download = scratch.new_folder()
        for file in self._store.list(name):
            self._store.bucket.download(f"{name}/{file}", self._download / file)
        return self._download

    def remove_download(self) -> None:
        """Removes the copy of a checkpoint that was read."""
        if self._download is not None:
            shutil.rmtree(self._download, ignore_errors=True)
            self._download = None


def store_checkpoint(checkpoint: Checkpoint, store: Store, name: str, *, removes: bool) -> None:
    """Collective: the checkpoint is complete at `name` in the store.

    Raises what `checkpoint` raises on every rank alike. `removes`, on the rank that writes the index: what was
    written is removed then, unless it is complete: the others can be lost after that, or it can have been there before.
    """
    local = store.local_path(name)
    try:
        if local is not None:
            checkpoint.write(local)
        else:
            with tempfile.TemporaryDirectory(prefix=scratch.prefix()) as folder:
                checkpoint.write(Path(folder))
                upload(Path(folder), store, name, checkpoint)
    except Exception:
        with contextlib.suppress(OSError):
            if removes and not store.exists(f"{name}/{CHECKPOINT_INDEX}"):
                store.delete_tree(name)
        raise


def upload(folder: Path, store: Store, name: str, checkpoint: Checkpoint) -> None:
    """Collective: merges the ranks' folders into one place; the file that makes it a checkpoint comes last."""

    def put(files: list[str]) -> None:
        for file in files:
            store.bucket.upload(folder / file, f"{name}/{file}")

    mine = sorted(path.name for path in folder.iterdir() if path.name != CHECKPOINT_INDEX)
    checkpoint.together(lambda: put(mine))
    checkpoint.together(lambda: put([CHECKPOINT_INDEX]), first_only=True)
