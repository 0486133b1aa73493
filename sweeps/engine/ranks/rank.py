"""What one rank of an attempt lends to the trainer: its hooks, over storage.

Rank 0 stores rows in parts, at least five seconds apart, and always before a checkpoint that covers them, so that a
resume never finds a gap. A thread beside training does that and looks for requests, so a step waits for neither. A rank
that is about to store first makes sure that the attempt is still the newest one: an orphan of a killed launch must not
touch what its successor has built on.
"""

import contextlib
import errno
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from nanochat.config import TrainConfig
from nanochat.machine.memory import is_out_of_memory, memory_advice, peak_mib
from nanochat.stats import Checkpoint, Hooks, StartFacts, StepStats, TextFacts, TrainResult, stats_as_dict
from sweeps.engine.processes.beside import beside
from sweeps.engine.processes.storage_retry import StorageLost, or_lost
from sweeps.engine.ranks.leg_timeout import timeout_error
from sweeps.engine.ranks.requests import Requests
from sweeps.engine.ranks.waiting_rows import WaitingRows
from sweeps.records.checkpoints import KEEP_CHECKPOINTS, stored_checkpoints, superseded
from sweeps.records.documents import AttemptError, utc_now
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.records.texts import check_text
from sweeps.spec.errors import CorruptData, SweepToolError

TICK_S = 0.25  # how long a row that is due, or the time of the first step, waits for the thread
STOP_POLL_S = 1.0
REMOTE_STOP_POLL_S = 5.0  # each request to object storage costs money
_MAX_TRACEBACK = 20_000


class Superseded(SweepToolError):
    """A newer attempt of the same trial has started: this one is an orphan and must end."""


@dataclass(frozen=True)
class RankTask:
    """Which attempt a rank works for; plain values, so that it travels."""

    experiment: str
    trial: str
    attempt: int
    owner_number: int = 0  # of the launch


class RankGroup(Protocol):
    """The ranks of the attempt, as Ray Train knows them."""

    is_first: bool

    def agree(self, names: list[str]) -> list[str]:
        """Collective: rank 0's list."""
        ...

    def write(self, checkpoint: Checkpoint) -> None:
        """Collective, on any one thread: every rank writes its part of a checkpoint to where it stays, or none."""
        ...

    def report(self, step: int) -> None:
        """Collective, on the training thread: counts the checkpoint that `write` has completed."""
        ...

    def local_folder(self, name: str) -> Path:
        """A stored checkpoint on this rank's disk, by its path below the trial's training storage."""
        ...


class Rank:
    """The hooks of one rank and what they share."""

    def __init__(self, task: RankTask, group: RankGroup) -> None:
        self._task, self._group = task, group
        self.experiment = or_lost(
            f"experiment {task.experiment} cannot be read", lambda: Experiment.open(task.experiment)
        )
        self.experiment.act_for(task.owner_number)
        self._record = self.experiment.trial(task.trial)
        self._train_store = self._record.train_store
        self._rows = WaitingRows(self._record, task.attempt)
        self._requests = Requests(self._look_up)
        self._stop_poll_s = STOP_POLL_S if self.experiment.store.is_local else REMOTE_STOP_POLL_S

    def config(self) -> TrainConfig:
        """The trial's config, as planned."""
        return next(trial.config for trial in self.experiment.plan.trials if trial.name == self._task.trial)

    def hooks(self) -> Hooks:
        """What the trainer calls."""
        return Hooks(
            on_text=self.on_text,
            on_start=self.on_start,
            on_step=self.on_step,
            before_save=self.before_save,
            save=self.save,
            saved=self.saved,
            checkpoints=self.checkpoints,
            should_stop=self.should_stop,
        )

    def on_text(self, seen: TextFacts) -> None:
        """Every rank: the text must be what the experiment's first attempt read. Raises DriftError."""
        source = self.config().data.source
        or_lost(
            f"earlier attempts of {self._task.experiment} cannot be read",
            lambda: check_text(self.experiment, source, seen),
        )

    def on_start(self, facts: StartFacts) -> None:
        """Rank 0: the attempt's facts; earlier attempts' checkpoints that nothing needs any more are deleted."""
        or_lost(f"the start of {self._task.trial} cannot be stored", lambda: self._start(facts))

    def _start(self, facts: StartFacts) -> None:
        self._check_newest()
        self._note(facts=stats_as_dict(facts), first_step=facts.first_step)
        for old in superseded(
            stored_checkpoints(self._train_store),
            attempt=self._task.attempt,
            first_step=facts.first_step,
            keep=KEEP_CHECKPOINTS,
        ):
            self._train_store.delete_tree(old.name)

    def on_step(self, stats: StepStats) -> None:
        """Rank 0: a row. It can wait in memory, but not for long."""
        self._rows.add(StepRow.of(stats, trial=self._task.trial, attempt=self._task.attempt, done_utc=utc_now()))

    def before_save(self, step: int) -> None:
        """Rank 0: rows are stored before a checkpoint covers them."""
        if not self._group.is_first:
            return
        last = self._rows.last_step
        if last is not None and last < step - 1:
            raise RuntimeError(f"checkpoint at step {step}, but the last row is of step {last}")
        or_lost(f"rows of {self._task.trial} cannot be stored", self._store_rows_of_newest)

    def save(self, checkpoint: Checkpoint) -> None:
        """Every rank, in the background: writes its part, on a local disk straight to where it stays."""
        try:
            self._group.write(checkpoint)
        except Exception as error:
            raise StorageLost(f"the checkpoint at step {checkpoint.step} cannot be stored: {error}") from error

    def saved(self, step: int) -> None:
        """Every rank: tells Ray Train, which keeps the two newest of this attempt."""
        try:
            self._group.report(step)
        except Exception as error:
            raise StorageLost(f"the checkpoint at step {step} is stored but cannot be reported: {error}") from error

    def checkpoints(self) -> Iterator[Path]:
        """Every rank: the trial's checkpoints, newest first, the same ones on each rank.

        The ranks agree on the list here and now; a folder is fetched when it is looked at, which a rank may do alone.
        """
        refusal = f"checkpoints of {self._task.trial} cannot be read"
        found = or_lost(refusal, lambda: stored_checkpoints(self._train_store)) if self._group.is_first else []
        names = self._group.agree([checkpoint.name for checkpoint in found])
        return (or_lost(refusal, partial(self._group.local_folder, name)) for name in names)

    def should_stop(self) -> bool:
        """True if a stop was requested, as of the last look of rank 0's thread. Raises Superseded."""
        return self._requests.is_stop_asked()

    def _look_up(self) -> bool:
        self._check_newest()
        return self.experiment.stop_requested() is not None or self._is_time_up()

    def finish(self, result: TrainResult) -> None:
        """Rank 0: everything is stored, then the attempt has ended. The driver makes the result of it."""
        if not self._group.is_first:
            return
        or_lost(f"the end of {self._task.trial} cannot be stored", lambda: self._finish(result))

    def _finish(self, result: TrainResult) -> None:
        self._store_rows_of_newest()
        changes: dict[str, Any] = {"end": "completed" if result.completed else "stopped"}
        if not result.completed and self.experiment.stop_requested() is None and self._is_time_up():
            how = f"stopped after step {result.last_step} with a checkpoint"
            changes = {"end": "failed", "error": timeout_error(self.experiment.plan.leg_timeout_s or 0.0, how)}
        self._note(**changes, **self._times(), ended_utc=utc_now())

    def _times(self) -> dict[str, Any]:
        return {"first_step_utc": self._rows.first_step_utc, "last_step_utc": self._rows.last_step_utc}

    def _is_time_up(self) -> bool:
        return self.experiment.plan.leg_timeout_s is not None and self._record.is_time_up(self._task.attempt)

    def store_error(self, error: Exception) -> bool:
        """Any rank: its own exception, unless another rank was first, because the later ones follow from that.

        The rows of the last seconds are stored too: by rank 0 before the error, by the thread that looks for other
        ranks' errors after it. Another rank waits for that, as Ray kills rank 0 once this one has ended.
        """
        try:
            if self._store_last_rows():
                self._note(**self._times())
            attempt = self._record.attempt(self._task.attempt)
            if attempt.error is not None or attempt.end is not None:
                return False
            text = "".join(traceback.format_exception(error))[-_MAX_TRACEBACK:]
            message = self._explained(error)
            stored = AttemptError(type=type(error).__name__, message=message, traceback=text)
            self._record.note(self._task.attempt, "error", error=stored)
            if not self._group.is_first:
                self._wait_for_last_rows()
        except OSError as refused:
            print(f"this error cannot be stored: {refused}")
        return True

    def _store_last_rows(self) -> bool:
        """Rank 0: whether there were rows and storage has them all now."""
        if self._rows.last_step is None:
            return False
        try:
            self._store_rows_of_newest()
        except (OSError, SweepToolError) as error:
            print(f"the last rows cannot be stored: {error}")
            return False
        return True

    def _wait_for_last_rows(self) -> None:
        """Returns once rank 0's thread has stored them, or has had the time to say that a step has ended."""
        begin_s, first_noted_s = time.monotonic(), max(self._stop_poll_s, 2 * TICK_S)
        while time.monotonic() - begin_s < 2 * self._stop_poll_s + 1:
            attempt = self._record.attempt(self._task.attempt)
            is_none_told = attempt.first_step_utc is None and time.monotonic() - begin_s > first_noted_s
            if is_none_told or attempt.last_step_utc is not None:
                return
            time.sleep(self._stop_poll_s / 10)

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """Around the trainer's run: on rank 0, a thread stores rows and looks for requests and others' errors."""
        with beside(self._work, name="storage") if self._group.is_first else contextlib.nullcontext():
            yield

    def _work(self, over: threading.Event) -> None:
        looked_s = -self._stop_poll_s
        while not over.wait(min(TICK_S, self._stop_poll_s)):
            if time.monotonic() - looked_s >= self._stop_poll_s:
                looked_s = time.monotonic()
                self.look()
            else:
                self._rows.store_if_due()

    def look(self) -> None:
        """Rank 0, on its thread: stores rows that are due, and finds out what the other ranks and people want."""
        self._rows.store_if_due()
        self._requests.look()
        with contextlib.suppress(OSError, CorruptData):  # the next look may succeed
            self._rows.store_with_error_of_another()

    def _explained(self, error: Exception) -> str:
        return memory_advice(error, self.config(), peak_mib()) if is_out_of_memory(error) else str(error)

    def _check_newest(self) -> None:
        attempts = self._record.attempts()
        if not attempts:
            raise FileNotFoundError(errno.ENOENT, "no attempt is in storage any more", self.experiment.uri)
        newest = attempts[-1].number
        if newest != self._task.attempt or self._record.result() is not None:
            raise Superseded(
                f"attempt {self._task.attempt} of {self._task.trial} is superseded by attempt {newest}; it ends here"
            )

    def _store_rows_of_newest(self) -> None:
        self._check_newest()
        self._rows.store()

    def _note(self, **changes: Any) -> None:
        """Rank 0: what it knows of the attempt."""
        self._record.note(self._task.attempt, "rank", **changes)
