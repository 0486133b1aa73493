"""One rank of one attempt: lends the trainer its storage, and tells what became of it.

This is the only place that calls the trainer. Rank 0 stores rows in parts, at least five seconds apart, and always
before a checkpoint that covers them, so that a resume never finds a gap. Whoever is about to write first makes sure
that the attempt is still the newest one: an orphan of a killed launch must not touch what its successor has built on.
"""

# Ray and pyarrow are typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false

import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanochat.config import TrainConfig, from_dict
from nanochat.stats import Checkpointable, Hooks, StartFacts, StepStats, TrainResult, stats_as_dict
from sweeps.engine.output import into_log
from sweeps.engine.resume import checkpoint_name, run_name, stored_checkpoints, superseded
from sweeps.records.documents import AttemptError, utc_now
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.records.store import Store
from sweeps.spec.errors import SweepToolError

TrainFunction = Callable[[TrainConfig, Hooks], TrainResult]

KEEP_CHECKPOINTS = 2
ROW_PART_S = 5.0
STOP_POLL_S = 5.0
_MAX_TRACEBACK = 20_000


class StorageLost(SweepToolError):
    """Storage refused what must be stored. The leg itself did nothing wrong, so it may be continued."""


class Superseded(SweepToolError):
    """A newer attempt of the same trial has started: this one is an orphan and must end."""


@dataclass(frozen=True)
class Task:
    """What a rank must know; plain values, so that it travels."""

    experiment: str
    trial: str
    attempt: int

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Task":
        """The inverse of `vars`."""
        return cls(**{name: values[name] for name in ("experiment", "trial", "attempt")})


def run_rank(values: dict[str, Any]) -> None:
    """Ray Train's loop function. `values` is a task and, for tests, another `train` function."""
    task = Task.from_dict(values)
    record = Experiment.open(task.experiment).trial(task.trial)
    with into_log(record.log_path):
        rank = Rank(task)
        try:
            result = (values.get("train") or _trainer())(rank.config(), rank.hooks())
            rank.finish(result)
        except Exception as error:
            if rank.store_error(error):
                traceback.print_exc()
            else:
                print(f"another rank ends too: {type(error).__name__}: {error}")
            raise


def _trainer() -> TrainFunction:
    from nanochat.train import train

    return train


class Rank:
    """The hooks of one rank and what they share."""

    def __init__(self, task: Task) -> None:
        import ray.train

        self._task = task
        self._experiment = Experiment.open(task.experiment)
        self._record = self._experiment.trial(task.trial)
        self._train_store = Store(self._record.train_uri)
        self._is_first = ray.train.get_context().get_world_rank() == 0
        self._rows: list[StepRow] = []
        self._rows_stored_at = time.monotonic()
        self._last_row: int | None = None
        self._last_saved: int | None = None
        self._stop_seen_at = -STOP_POLL_S
        self._downloads: list[str] = []

    def config(self) -> TrainConfig:
        """The trial's config, as the manifest has it."""
        values = next(t["config"] for t in self._experiment.manifest.plan["trials"] if t["name"] == self._task.trial)
        return from_dict(values)

    def hooks(self) -> Hooks:
        """What the trainer calls."""
        return Hooks(
            on_start=self.on_start,
            on_step=self.on_step,
            save=self.save,
            checkpoints=self.checkpoints,
            should_stop=self.should_stop,
        )

    def on_start(self, facts: StartFacts) -> None:
        """Rank 0: the attempt's facts; earlier attempts' checkpoints that nothing needs any more are deleted."""
        self._remove_downloads()
        self._check_newest()
        self._update_attempt(facts=stats_as_dict(facts), first_step=facts.first_step)
        for old in superseded(
            stored_checkpoints(self._train_store),
            attempt=self._task.attempt,
            first_step=facts.first_step,
            keep=KEEP_CHECKPOINTS,
        ):
            self._train_store.delete_tree(old.name)

    def on_step(self, stats: StepStats) -> None:
        """Rank 0: a row. It may wait in memory, but not for long."""
        self._rows.append(StepRow.of(stats, trial=self._task.trial, attempt=self._task.attempt))
        self._last_row = stats.step
        if time.monotonic() - self._rows_stored_at >= ROW_PART_S:
            self._store_rows(must=False)

    def save(self, state: Checkpointable) -> None:
        """Every rank: writes its part, then reports. On a local disk straight to where it stays, without a copy."""
        if state.step == self._last_saved:
            return
        if self._is_first:
            if self._last_row is not None and self._last_row < state.step - 1:
                raise RuntimeError(f"checkpoint at step {state.step}, but the last row is of step {self._last_row}")
            self._check_newest()
            self._store_rows(must=True)
        try:
            self._save_in_place(state) if self._train_store.is_local else self._save_by_upload(state)
        except Exception as error:
            raise StorageLost(f"the checkpoint at step {state.step} cannot be stored: {error}") from error
        self._last_saved = state.step

    def checkpoints(self) -> Iterator[Path]:
        """Every rank: the trial's checkpoints, newest first, the same ones on each rank.

        The ranks agree on the list here and now; a folder is fetched when it is looked at, which a rank may do alone.
        """
        from ray.train.collective import broadcast_from_rank_zero

        found = stored_checkpoints(self._train_store) if self._is_first else []
        names: list[str] = broadcast_from_rank_zero([c.name for c in found])
        return (self._train_store.local_path(name) or self._download(name) for name in names)

    def should_stop(self) -> bool:
        """Rank 0: whether somebody asked for a stop; looks every few seconds at most."""
        if time.monotonic() - self._stop_seen_at < STOP_POLL_S:
            return False
        self._stop_seen_at = time.monotonic()
        self._check_newest()
        return self._experiment.stop_requested() is not None

    def finish(self, result: TrainResult) -> None:
        """Rank 0: everything is stored, then the attempt has ended. The driver makes the result of it."""
        if not self._is_first:
            return
        self._check_newest()
        self._store_rows(must=True)
        self._update_attempt(end="completed" if result.completed else "stopped", ended_utc=utc_now())

    def store_error(self, error: Exception) -> bool:
        """Any rank: its own exception, unless another rank was first, because the later ones follow from that."""
        attempt = self._record.attempts()[self._task.attempt]
        is_first = attempt.error is None and attempt.end is None
        if is_first:
            text = "".join(traceback.format_exception(error))[-_MAX_TRACEBACK:]
            self._update_attempt(error=AttemptError(type=type(error).__name__, message=str(error), traceback=text))
        return is_first

    def _save_in_place(self, state: Checkpointable) -> None:
        import ray.train
        from pyarrow.fs import LocalFileSystem

        folder = Path(self._train_store.uri, run_name(self._task.attempt), checkpoint_name(state.step))
        folder.mkdir(parents=True, exist_ok=True)
        state.write(folder)
        ray.train.report(
            {"step": state.step},
            checkpoint=ray.train.Checkpoint(str(folder), filesystem=LocalFileSystem()),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )

    def _save_by_upload(self, state: Checkpointable) -> None:
        import ray.train

        with tempfile.TemporaryDirectory() as folder:
            state.write(Path(folder))
            ray.train.report(
                {"step": state.step},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=checkpoint_name(state.step),
            )

    def _check_newest(self) -> None:
        newest = self._record.attempts()[-1].number
        if newest != self._task.attempt or self._record.result() is not None:
            raise Superseded(
                f"attempt {self._task.attempt} of {self._task.trial} is superseded by attempt {newest}; it ends here"
            )

    def _store_rows(self, *, must: bool) -> None:
        """Stores what has gathered. Where it need not be now, a refusing storage gets another chance later."""
        try:
            self._record.append_rows(self._task.attempt, self._rows)
        except OSError as error:
            if must:
                raise StorageLost(f"rows of {self._task.trial} cannot be stored: {error}") from error
            print(f"rows cannot be stored yet, they wait in memory: {error}")
        else:
            self._rows.clear()
        self._rows_stored_at = time.monotonic()

    def _update_attempt(self, **changes: Any) -> None:
        self._record.update_attempt(replace(self._record.attempts()[self._task.attempt], **changes))

    def _download(self, name: str) -> Path:
        import pyarrow.fs

        self._remove_downloads()
        folder = tempfile.mkdtemp(prefix="checkpoint-")
        self._downloads.append(folder)
        filesystem, base = pyarrow.fs.FileSystem.from_uri(self._train_store.uri)
        pyarrow.fs.copy_files(os.path.join(base, name), folder, source_filesystem=filesystem)
        return Path(folder)

    def _remove_downloads(self) -> None:
        while self._downloads:
            shutil.rmtree(self._downloads.pop(), ignore_errors=True)
