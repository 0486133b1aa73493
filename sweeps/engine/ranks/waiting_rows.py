"""Rows that rank 0 was given and has not stored yet.

A part of rows is a file, so steps of milliseconds share one: parts are at least five seconds apart. A thread stores
them, so that no step waits for storage. It also stores them when another rank has stored an error: rank 0's own
training thread can wait for that rank until Ray kills it.
"""

import threading
import time

from sweeps.records.documents import utc_now
from sweeps.records.rows import StepRow
from sweeps.records.trial import TrialRecord
from sweeps.spec.errors import CorruptData

ROW_PART_S = 5.0


class WaitingRows:
    """The rows of one attempt on their way to storage."""

    def __init__(self, record: TrialRecord, attempt: int) -> None:
        self.last_step: int | None = None
        self.first_step_utc: str | None = None  # the end of it
        self.last_step_utc: str | None = None
        self._record, self._attempt = record, attempt
        self._rows: list[StepRow] = []
        self._stored_at_s = time.monotonic()
        self._is_first_noted = self._is_error_seen = False
        self._adding, self._storing = threading.Lock(), threading.Lock()

    def add(self, row: StepRow) -> None:
        """Takes a finished step. Waits for no storage."""
        with self._adding:
            self._rows.append(row)
            self.last_step, self.last_step_utc = row.step, utc_now()
            self.first_step_utc = self.first_step_utc or self.last_step_utc

    def store_if_due(self) -> None:
        """Stores what has gathered for long enough, and when the first step ended; if storage fails, all waits."""
        try:
            if self.first_step_utc is not None and not self._is_first_noted:
                self._record.note(self._attempt, "rank", first_step_utc=self.first_step_utc)
                self._is_first_noted = True
            if time.monotonic() - self._stored_at_s >= ROW_PART_S:
                self.store()
        except (OSError, CorruptData) as error:
            print(f"cannot write rows yet, keeping them in memory: {error}")
            self._stored_at_s = time.monotonic()

    def store(self) -> None:
        """Stores what has gathered. Raises OSError; the rows then stay here."""
        with self._storing:
            with self._adding:
                rows = list(self._rows)
            self._record.append_rows(self._attempt, rows)
            with self._adding:
                del self._rows[: len(rows)]
            self._stored_at_s = time.monotonic()

    def store_with_error_of_another(self) -> None:
        """Stores everything if another rank has stored an error. Raises OSError and CorruptData."""
        if self._is_error_seen or self.last_step is None or self._record.attempt(self._attempt).error is None:
            return
        self.store()
        self._record.note(self._attempt, "rank", first_step_utc=self.first_step_utc, last_step_utc=self.last_step_utc)
        self._is_error_seen = True
