"""What an experiment's storage tells a watcher, as events: the launcher's only source about its legs.

Results go up by file: nothing is sent to the launcher, it looks. Part files never change, so each is read once; trials
that are settled are not looked at again.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sweeps.engine.ranks.stacks import places
from sweeps.engine.ray_private import newest_counted_checkpoint
from sweeps.engine.watching.events import (
    Event,
    LegAdvanced,
    LegCheckpointed,
    LegCompleted,
    LegFailed,
    LegInterrupted,
    LegStarted,
    LegStopped,
    LegTraining,
    LegUncompiled,
    Place,
)
from sweeps.records.checkpoints import checkpoint_step, run_name
from sweeps.records.documents import AttemptRecord, TrialResult
from sweeps.records.experiment import Experiment
from sweeps.records.layout import TrialFolders
from sweeps.records.row_parts import NewSteps
from sweeps.records.rows import StepRow
from sweeps.records.trial import TrialRecord
from sweeps.spec.visible import shortened

PROGRESS_S = 10.0
LOG_TAIL_LINES = 12


@dataclass
class _Seen:
    """What was already told about one trial."""

    position: int
    steps: NewSteps
    settled: bool = False
    num_known: int = 0  # attempts of earlier launches
    running: AttemptRecord | None = None
    num_started: int = 0
    num_training: int = 0
    num_uncompiled: int = 0
    num_ended: int = 0
    last_row: StepRow | None = None
    told_step: int = -1
    told_at: float = 0.0
    checkpoint: int | None = None  # step of the last one


@dataclass(frozen=True)
class Unready:
    """An attempt of this launch that has not taken a step yet."""

    at: Place
    attempt: int
    num_workers: int
    phase: Literal["ranks", "preparation", "first step"]  # what comes next


class StoredEvents:
    """Compares storage with what was told before. What is there at the start is taken as known."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._records: dict[str, TrialRecord] = {}
        self._seen: dict[str, _Seen] = {}
        self.look_for_more()

    def look_for_more(self) -> None:
        """Watches trials that were added to the plan, too."""
        self._records = {record.name: record for record in self._experiment.trials()}
        for position, (name, record) in enumerate(self._records.items(), start=1):
            if name not in self._seen:
                self._seen[name] = _first_look(record, position, len(record.attempts()))

    def reopen(self, name: str, num_known: int) -> None:
        """Watches a trial that was settled and runs again, after `num_known` attempts."""
        self._seen[name] = _first_look(self._records[name], self._seen[name].position, num_known)
        self._seen[name].settled = False

    def poll(self) -> Iterator[Event]:
        """What happened since the last call, oldest first within a trial. Raises OSError while storage fails."""
        for name, record in self._records.items():
            seen = self._seen[name]
            if not seen.settled:
                yield from self._poll_trial(record, seen)

    def running(self) -> "AttemptRecord | None":
        """The attempt that this launch runs, as of the last call of `poll`."""
        return next((seen.running for seen in self._seen.values() if seen.running is not None), None)

    def unready(self) -> list[Unready]:
        """The attempts that run and have not taken a step yet. Raises OSError while storage fails."""
        return [
            found
            for name, seen in self._seen.items()
            if seen.running is not None and (found := self._unready(name, seen, seen.running)) is not None
        ]

    def _unready(self, name: str, seen: _Seen, running: AttemptRecord) -> Unready | None:
        number = running.number
        if seen.last_row is not None and seen.last_row.attempt == number:
            return None
        if running.facts is not None:
            phase = "first step"
        else:
            num_started = len(places(self._experiment.store, name, number))
            phase = "preparation" if num_started == running.num_workers else "ranks"
        return Unready(Place(name, seen.position, len(self._records)), number, running.num_workers, phase)

    def _poll_trial(self, record: TrialRecord, seen: _Seen) -> Iterator[Event]:
        result, attempts = record.result(), record.attempts()
        is_running = result is None and len(attempts) > seen.num_known and attempts[-1].end is None
        seen.running = attempts[-1] if is_running else None
        place = Place(record.name, seen.position, len(self._records))
        for index, attempt in enumerate(attempts[seen.num_ended :], start=seen.num_ended):
            if index >= seen.num_started:
                seen.num_started = index + 1
                yield LegStarted(at=place, attempt=attempt.number, num_earlier=index, node=attempt.node)
            if attempt.facts is not None and index >= seen.num_training:
                seen.num_training = index + 1
                yield from _training(place, attempt)
            reason = (attempt.facts or {}).get("compile_fallback")
            if reason is not None and index >= seen.num_uncompiled:
                seen.num_uncompiled = index + 1
                yield LegUncompiled(at=place, reason=reason)
            yield from self._progress(record.name, place, seen, attempt)
            is_cut_off = attempt.end is None and attempt is not attempts[-1]
            if is_cut_off or attempt.end not in (None, "completed"):
                seen.num_ended = index + 1
                yield self._ended(record, place, attempt)
        if result is not None:
            seen.settled = True
            yield _completed(place, result, record)

    def _progress(self, name: str, place: Place, seen: _Seen, attempt: AttemptRecord) -> Iterator[Event]:
        newest_step = seen.steps.read()[-1:].rows()
        seen.last_row = newest_step[-1] if newest_step else seen.last_row
        row, now = seen.last_row, time.monotonic()
        runs = attempt.end is None and row is not None and row.attempt == attempt.number  # else it is an older one's
        if row is not None and runs and row.step != seen.told_step and now - seen.told_at >= PROGRESS_S:
            seen.told_step, seen.told_at = row.step, now
            yield LegAdvanced(
                at=place, step=row.step + 1, num_steps=row.num_steps, loss=row.loss_ema, tok_per_sec=row.tok_per_sec
            )
        newest = self._newest_checkpoint(name, attempt.number)
        if newest is not None and newest != seen.checkpoint:
            seen.checkpoint = newest
            yield LegCheckpointed(at=place, step=newest)

    def _newest_checkpoint(self, name: str, attempt: int) -> int | None:
        """The step of the last one that all ranks have reported to Ray Train in this attempt; None before the first."""
        folder = f"{TrialFolders(name).train}/{run_name(attempt)}"
        return checkpoint_step(newest_counted_checkpoint(lambda file: self._experiment.store.read(f"{folder}/{file}")))

    def _ended(self, record: TrialRecord, place: Place, attempt: AttemptRecord) -> Event:
        error = attempt.error
        text = f"{error.type}: {error.message}" if error else "its driver was lost"
        if attempt.end == "failed":
            return LegFailed(at=place, error=text, log=record.log_path, tail=_tail(record))
        if attempt.end == "stopped":
            rows = record.rows()
            return LegStopped(at=place, attempt=attempt.number, next_step=rows[-1].step + 1 if rows else 0)
        return LegInterrupted(at=place, attempt=attempt.number, message=error.message if error else text)


def _first_look(record: TrialRecord, position: int, num_known: int) -> _Seen:
    seen = _Seen(
        position,
        record.new_steps(),
        settled=record.result() is not None,
        num_known=num_known,
        num_started=num_known,
        num_training=num_known,
        num_uncompiled=num_known,
        num_ended=num_known,
    )
    seen.steps.skip()
    return seen


def _training(place: Place, attempt: AttemptRecord) -> Iterator[Event]:
    """That the model is built; nothing of an attempt that has not told all of its facts."""
    known = {name: value for name, value in (attempt.facts or {}).items() if value is not None}
    names = ("device_name", "world_size", "first_step", "num_steps")
    if known.keys() >= set(names):
        yield LegTraining(at=place, **{name: known[name] for name in names})


def _completed(place: Place, result: TrialResult, record: TrialRecord) -> Event:
    tail = record.rows()[-50:]
    return LegCompleted(
        at=place,
        num_steps=result.last_step + 1,
        loss=tail[-1].loss_ema if tail else math.nan,
        tok_per_sec=sum(row.tok_per_sec for row in tail) / len(tail) if tail else math.nan,
        total_time_min=result.total_time_min,
    )


def _tail(record: TrialRecord) -> tuple[str, ...]:
    lines = record.log_tail().splitlines()
    return tuple(shortened(line) for line in lines[-LOG_TAIL_LINES:] if line.strip())
