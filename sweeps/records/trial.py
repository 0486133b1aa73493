"""What one trial leaves in storage: its config, its attempts, its rows, and at the very end its result.

`EXP/trials/<trial>/` is written by several processes that never write the same file: the driver (config, attempts,
result), rank 0 of the worker group (row parts, its part of an attempt) and those that `attempts.py` names. A part of
rows is never changed once it is there. Before the result is written the
parts are compacted into one file; whatever is killed in between, each row is found at least once and counted once.
"""

import contextlib
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanochat.config import TrainConfig, digest, to_dict
from sweeps.records.attempts import Writer, first_number, numbered, owner_number_of, part_name, read_attempt, whole_name
from sweeps.records.documents import (
    AttemptPart,
    AttemptRecord,
    Drop,
    Imported,
    Origin,
    TrialResult,
    TrialState,
    json_bytes,
    json_object,
    to_bytes,
    utc_now,
)
from sweeps.records.kept_steps import keep_steps, kept_steps, stamp_of_rows
from sweeps.records.layout import TrialFolders
from sweeps.records.provenance import CodeVersion
from sweeps.records.row_parts import NewSteps, StoredSteps, part_files, read_rows, read_steps
from sweeps.records.rows import StepRow, encode_rows
from sweeps.records.set_aside import SET_ASIDE
from sweeps.records.steps import Steps
from sweeps.records.store import Store
from sweeps.records.stored import stored_document
from sweeps.spec.errors import CorruptData, Locked

_TAKEN = re.compile(rf"([0-9]{{3,9}})\.json(?:{re.escape(SET_ASIDE)})?")
_COMPACTED = re.compile(r"compacted-([0-9]{3,9})\.jsonl")
_MOST = 10**8  # attempts of a trial, or parts of its rows
_LOG_TAIL_BYTES = 2**16


class TrialRecord:
    """One trial of an experiment. Holds no data itself: every answer is read from storage."""

    def __init__(self, store: Store, name: str, owner_lives: Callable[[], bool]) -> None:
        self.name = name
        self._store, self._owner_lives = store, owner_lives
        self.folders = TrialFolders(name)
        self._next_part: dict[int, int] = {}
        self._noting = threading.Lock()

    def write_config(self, config: TrainConfig) -> None:
        """Stores the leg's resolved config and its digest."""
        body = {"schema": "nanochat-sweep/trial/1", "trial": self.name, "digest": digest(config)}
        self._store.write(self.folders.config, json_bytes({**body, "config": to_dict(config)}))

    def stored_digest(self) -> str | None:
        """The digest of the config that the trial was started with; None before its first start."""
        try:
            data = self._store.read(self.folders.config)
        except FileNotFoundError:
            return None
        values: dict[str, Any] = json_object(data, self._store.uri_of(self.folders.config))
        return values.get("digest")

    def attempts(self) -> list[AttemptRecord]:
        """All attempts, oldest first."""
        names = self._store.list(self.folders.attempts)
        return [self._read_attempt(name, names) for _, name in numbered(names)]

    def attempt_numbers(self) -> list[int]:
        """Of all attempts, oldest first."""
        return [number for number, _ in numbered(self._store.list(self.folders.attempts))]

    def attempt(self, number: int) -> AttemptRecord:
        """One attempt. Raises FileNotFoundError if it is not in storage."""
        return self._read_attempt(whole_name(number), self._store.list(self.folders.attempts))

    def start_attempt(
        self,
        *,
        num_workers: int,
        code: CodeVersion | None = None,
        node_id: str | None = None,
        node_host: str | None = None,
        owner_number: int = 0,
    ) -> AttemptRecord:
        """Opens the attempt with the next free number, run by the calling process and its `code`, if that is known.

        `owner_number`: of the launch that it belongs to; 0: of none. Raises Locked if a newer owner has opened one.
        `node_id`, `node_host`: of the node that the trial's block is bound to.
        """
        number = _next_number(_TAKEN, self._store.list(self.folders.attempts))
        if owner_number:
            number = max(number, first_number(owner_number))
        while True:
            if owner_number and owner_number_of(number) > owner_number:
                raise Locked(f"another launch has begun attempts of {self.name}, or this one has begun a thousand")
            record = AttemptRecord(
                number=number,
                host=socket.gethostname(),
                pid=os.getpid(),
                started_utc=utc_now(),
                num_workers=num_workers,
                git_commit=code.git_commit if code else None,
                git_diff_digest=code.git_diff_digest if code else None,
                versions=code.versions if code else None,
                node_id=node_id,
                node_host=node_host,
            )
            try:
                self._store.create(f"{self.folders.attempts}/{whole_name(number)}", to_bytes(record))
                return record
            except FileExistsError:
                number += 1

    def update_attempt(self, record: AttemptRecord) -> None:
        """Stores the whole record of an attempt. Only its driver does."""
        self._store.write(f"{self.folders.attempts}/{whole_name(record.number)}", to_bytes(record))

    def note(self, number: int, writer: Writer, **changes: Any) -> None:
        """Adds to what one writer has stored of an attempt. `changes`: fields of AttemptPart."""
        path = f"{self.folders.attempts}/{part_name(number, writer)}"
        with self._noting:  # a rank's threads are one writer
            known = stored_document(self._store, AttemptPart, path) or AttemptPart()
            self._store.write(path, to_bytes(replace(known, **changes)))

    def allow_retry(self) -> None:
        """Lets another attempt follow a last one that failed; its record stays, with the time of the permission."""
        attempts = self.attempts()
        if attempts and attempts[-1].has_failed_for_good:
            self.note(attempts[-1].number, "user", retry_utc=utc_now())

    def begin_again(self) -> None:
        """Has a completed trial run again from its start. Its attempts and rows stay; the new rows will count.

        The result goes last: what is cut off before that leaves a completed trial.
        """
        attempts = self.attempts()
        if not attempts:
            return
        self.note(attempts[-1].number, "user", again_utc=utc_now())
        self._store.delete_tree(self.folders.train)
        self._store.delete(self.folders.result)

    def append_rows(self, attempt: int, rows: Iterable[StepRow]) -> None:
        """Stores finished steps as one new immutable part; nothing for no rows."""
        data = encode_rows(rows)
        if not data:
            return
        prefix = f"a{attempt:03d}-p"
        if attempt not in self._next_part:
            pattern = re.compile(rf"{prefix}([0-9]{{6,18}})\.jsonl")
            self._next_part[attempt] = _next_number(pattern, part_files(self._store, self.folders.rows))
        part = self._next_part[attempt]
        try:
            self._store.create(f"{self.folders.rows}/{prefix}{part:06d}.jsonl", data)
        except OSError:
            del self._next_part[attempt]  # it can be there for all that, so the next part's number is looked up again
            raise
        self._next_part[attempt] = part + 1

    def steps(self) -> StoredSteps:
        """Each step once, by column, and which parts are incomplete."""
        return read_steps(self._store, self.folders.rows)

    def new_steps(self) -> NewSteps:
        """A reader for repeated looks."""
        return NewSteps(self._store, self.folders.rows)

    def rows(self) -> list[StepRow]:
        """Each step once, in order: the latest attempt that covers it wins."""
        return self.steps().steps.rows()

    def stamp_of_rows(self) -> str:
        """What changes whenever a part of rows is added or changed."""
        return stamp_of_rows(self._store, self.folders)

    def keep_steps(self, steps: Steps, stamp: str) -> None:
        """Keeps the steps by column for the next reader. Raises OSError."""
        keep_steps(self._store, self.folders, steps, stamp)

    def kept_steps(self, stamp: str) -> Steps | None:
        """The steps as they were kept; None if there are none of that stamp."""
        return kept_steps(self._store, self.folders, stamp)

    def write_summary(self, data: bytes) -> None:
        """Stores what the rows amount to, for the next reader. Raises OSError."""
        self._store.write(self.folders.summary, data, lasting=False)

    def read_summary(self) -> bytes | None:
        """The stored summary; None if there is none that can be read."""
        try:
            return self._store.read(self.folders.summary)
        except (OSError, CorruptData):
            return None

    def compact(self) -> None:
        """Puts all whole rows, those of superseded attempts too, into one part and deletes the parts it replaces.

        Torn parts stay where they are, so that they continue being named.
        """
        parts, torn = read_rows(self._store, self.folders.rows)
        if len(parts) <= 1:
            return
        once = {(row.attempt, row.step): row for rows in parts.values() for row in rows}
        number = _next_number(_COMPACTED, parts)
        self._store.create(
            f"{self.folders.rows}/compacted-{number:03d}.jsonl", encode_rows(once[key] for key in sorted(once))
        )
        for name in parts:
            if name not in torn:
                self._store.delete(f"{self.folders.rows}/{name}")

    def write_result(self, result: TrialResult) -> None:
        """Makes the trial completed; call it last. A result that is there already stays."""
        with contextlib.suppress(FileExistsError):
            self._store.create(self.folders.result, to_bytes(result))

    def result(self) -> TrialResult | None:
        """The result of a completed trial."""
        return stored_document(self._store, TrialResult, self.folders.result)

    def origin(self) -> Origin | None:
        """Which experiment ran the trial, if it was not this one."""
        return stored_document(self._store, Origin, self.folders.origin)

    def imported(self) -> Imported | None:
        """From which log the trial was read, if it was not run here."""
        return stored_document(self._store, Imported, self.folders.imported)

    def write_imported(self, imported: Imported) -> None:
        """Makes the trial one that was read from a log; call it last, after its rows."""
        self._store.write(self.folders.imported, to_bytes(imported))

    def end_in_time(self, attempt: int) -> None:
        """Asks an attempt to stop because the leg's time is up."""
        self._store.write(f"{self.folders.times_up}/a{attempt:03d}", b"")

    def is_time_up(self, attempt: int) -> bool:
        """True if an attempt was asked to stop because the leg's time is up."""
        return self._store.exists(f"{self.folders.times_up}/a{attempt:03d}")

    def drop(self) -> None:
        """Gives the trial up. Its attempts and rows stay."""
        if not self.is_dropped():
            self._store.write(self.folders.drop, to_bytes(Drop(dropped_utc=utc_now())))

    def undo_drop(self) -> None:
        """Lets a dropped trial run again; that it was dropped once stays on record."""
        dropped = self._drop()
        if dropped is not None and dropped.undone_utc is None:
            self._store.write(self.folders.drop, to_bytes(replace(dropped, undone_utc=utc_now())))

    def is_dropped(self) -> bool:
        """True if a person gave the trial up and has not taken that back."""
        dropped = self._drop()
        return dropped is not None and dropped.undone_utc is None

    def _drop(self) -> Drop | None:
        return stored_document(self._store, Drop, self.folders.drop)

    def state(self) -> TrialState:
        """How far the trial is, from storage and the owner's life alone."""
        result, names = self.result(), self._store.list(self.folders.attempts)
        files = [name for _, name in numbered(names)]
        imported = None if result is not None or files else self.imported()
        if imported is not None:
            return imported.state
        attempts = [self._read_attempt(files[-1], names)] if files else []
        return trial_state(result, attempts, self._owner_lives, is_dropped=result is None and self.is_dropped())

    def progress(self, *, owner_lives: bool) -> tuple[TrialState, list[AttemptRecord], TrialResult | None]:
        """State, attempts and result that belong together: the result is read first, as it is written last."""
        result, attempts = self.result(), self.attempts()
        imported = None if result is not None or attempts else self.imported()
        if imported is not None:
            return imported.state, [], None
        is_dropped = result is None and self.is_dropped()
        return trial_state(result, attempts, lambda: owner_lives, is_dropped=is_dropped), attempts, result

    @property
    def train_uri(self) -> str:
        """The folder that Ray Train gets as its storage: checkpoints live below it."""
        return self._store.uri_of(self.folders.train)

    @property
    def train_store(self) -> Store:
        """The same folder, for reading and deleting checkpoints."""
        return self._store.below(self.folders.train)

    @property
    def log_path(self) -> Path | None:
        """Where the trial's whole output goes; None on remote storage, which cannot append."""
        return self._store.local_path(self.folders.log)

    def open_log(self) -> int | None:
        """A descriptor that appends to the log; None on remote storage."""
        return self._store.open_log(self.folders.log) if self._store.is_local else None

    def read_log(self) -> int | None:
        """A descriptor to read the log by; None before there is one, and on remote storage."""
        return self._store.open_file(self.folders.log) if self._store.is_local and self.has_log() else None

    def has_log(self) -> bool:
        """Whether the trial has written anything."""
        return self._store.is_local and self._store.exists(self.folders.log)

    def log_tail(self) -> str:
        """The end of the log, at most 64 KiB; "" if there is none."""
        descriptor = self.read_log()
        if descriptor is None:
            return ""
        with os.fdopen(descriptor, "rb") as file:
            file.seek(max(0, os.fstat(descriptor).st_size - _LOG_TAIL_BYTES))
            return file.read(_LOG_TAIL_BYTES).decode(errors="replace")

    def _read_attempt(self, name: str, names: Iterable[str]) -> AttemptRecord:
        return read_attempt(self._store, self.folders.attempts, name, names)


def _numbers(pattern: re.Pattern[str], names: Iterable[str]) -> list[tuple[int, str]]:
    """The files that are named like the pattern, with the number in their names; others are not ours."""
    return [(int(match[1]), name) for name in names if (match := pattern.fullmatch(name))]


def _next_number(pattern: re.Pattern[str], names: Iterable[str]) -> int:
    """Raises CorruptData past a number that is never reached: the next name would not be found again."""
    last, name = max(_numbers(pattern, names), default=(-1, ""))
    if last >= _MOST:
        raise CorruptData(f"{name} has a number that nothing here reaches; delete the file, if it is not yours")
    return last + 1


def trial_state(
    result: TrialResult | None,
    attempts: Sequence[AttemptRecord],
    owner_lives: Callable[[], bool],
    *,
    is_dropped: bool = False,
) -> TrialState:
    """The rule of states; only the last attempt matters, and the owner is asked only where it decides."""
    if result is not None:
        return result.status
    if is_dropped:
        return "dropped"
    if not attempts:
        return "pending"
    if attempts[-1].has_failed_for_good:
        return "failed"
    return "running" if attempts[-1].end is None and owner_lives() else "interrupted"
