"""Rows that rank 0 was given and has not stored yet.

A part of rows is a file, so steps of milliseconds share one: parts are at least five seconds apart. What waits must not
be lost with a leg that fails. So a thread looks whether another rank has stored an error, and then stores the rows:
rank 0's own training thread can wait for that rank until Ray kills it.
"""

import contextlib
import threading
import time
from collections.abc import Generator

from sweeps.engine.processes.beside import beside
from sweeps.records.documents import utc_now
from sweeps.records.rows import StepRow
from sweeps.records.trial import TrialRecord
from sweeps.spec.errors import CorruptData

ROW_PART_S = 5.0


class WaitingRows:
    """The rows of one attempt on their way to storage."""

    def __init__(self, record: TrialRecord, attempt: int) -> None:
        self.last_step: int | None = None
        self.last_step_utc: str | None = None  # the end of it
        self._record, self._attempt = record, attempt
        self._rows: list[StepRow] = []
        self._stored_at_s = time.monotonic()
        self._lock = threading.Lock()

    def add(self, row: StepRow) -> None:
        """Takes a finished step."""
        with self._lock:
            self._rows.append(row)
            self.last_step, self.last_step_utc = row.step, utc_now()

    def store_if_due(self) -> None:
        """Stores what has gathered for long enough; if storage fails, it waits in memory."""
        if time.monotonic() - self._stored_at_s < ROW_PART_S:
            return
        try:
            self.store()
        except OSError as error:
            print(f"cannot write rows yet, keeping them in memory: {error}")
            self._stored_at_s = time.monotonic()

    def store(self) -> None:
        """Stores what has gathered. Raises OSError; the rows then stay here."""
        with self._lock:
            self._record.append_rows(self._attempt, self._rows)
            self._rows.clear()
            self._stored_at_s = time.monotonic()

    @contextlib.contextmanager
    def stored_with_errors_of_others(self, poll_s: float) -> Generator[None]:
        """While inside, rows are stored within `poll_s` after another rank has stored an error."""

        def watch(over: threading.Event) -> None:
            while not over.wait(poll_s):
                with contextlib.suppress(OSError, CorruptData):  # the next look may succeed
                    attempt = self._record.attempt(self._attempt)
                    if attempt.error is not None and self.last_step is not None:
                        self.store()
                        self._record.note(self._attempt, "rank", last_step_utc=self.last_step_utc)
                        return

        with beside(watch, name="rows"):
            yield
