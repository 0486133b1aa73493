"""Who writes where: a rank's whole output goes to its leg's log, Ray's chatter in the launcher to its own file.

Redirecting the file descriptors, not only Python's objects, catches children and C libraries too. Lines are appended,
so several ranks and attempts share one log. What finds no room on the disk is lost; a leg is worth more than its log.
"""

import contextlib
import io
import os
import sys
import threading
from collections.abc import Generator
from typing import Any, TextIO, cast

from sweeps.engine.processes.storage_failure import is_full


@contextlib.contextmanager
def into_log(log: int | None) -> Generator[None]:
    """Sends all that this process writes to an open file, which is closed; nothing changes for None."""
    if log is None:
        yield
        return
    with _descriptors_into(log):
        before = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = _log_stream(1), _log_stream(2)
        try:
            yield
        finally:
            _flush(sys.stdout, sys.stderr)
            sys.stdout, sys.stderr = before


@contextlib.contextmanager
def others_into_log(log: int) -> Generator[None]:
    """Leaves stdout and stderr to the main thread; what other threads and C libraries write goes to an open file."""
    before = (sys.stdout, sys.stderr)
    with _descriptors_into(log) as (saved_out, saved_err):
        own = [
            _stream(saved) if _descriptor(stream) == number else stream
            for stream, number, saved in zip(before, (1, 2), (saved_out, saved_err), strict=True)
        ]
        sys.stdout = cast(TextIO, _ByThread(own[0], _log_stream(1)))
        sys.stderr = cast(TextIO, _ByThread(own[1], _log_stream(2)))
        try:
            yield
        finally:
            _flush(sys.stdout, sys.stderr, *own)
            sys.stdout, sys.stderr = before


class Speaker(threading.Thread):
    """A thread whose output goes where the main thread's goes."""


class _ByThread:
    """A text stream that is one thing to the main thread and to speakers, another to all other threads."""

    def __init__(self, main: TextIO, others: TextIO) -> None:
        self._main, self._others = main, others

    def __getattr__(self, name: str) -> Any:
        thread = threading.current_thread()
        speaks = thread is threading.main_thread() or isinstance(thread, Speaker)
        return getattr(self._main if speaks else self._others, name)


@contextlib.contextmanager
def _descriptors_into(log: int) -> Generator[tuple[int, int]]:
    """Points descriptors 1 and 2 to an open file; gives copies of what they were."""
    _flush(sys.stdout, sys.stderr)
    saved = (os.dup(1), os.dup(2))
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    try:
        yield saved
    finally:
        for number, original in zip((1, 2), saved, strict=True):
            os.dup2(original, number)
            os.close(original)


def _stream(descriptor: int) -> TextIO:
    return os.fdopen(descriptor, "w", buffering=1, errors="replace", closefd=False)


class _Log(io.FileIO):
    """A file in which bytes that a full disk rejects are taken for written."""

    def write(self, data: Any, /) -> int:
        """Returns how many bytes need not be written again."""
        try:
            return super().write(data)
        except OSError as error:
            if not is_full(error):
                raise
            return memoryview(data).nbytes


def _log_stream(descriptor: int) -> TextIO:
    file = io.BufferedWriter(_Log(descriptor, "w", closefd=False))
    return io.TextIOWrapper(file, errors="replace", line_buffering=True)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def _flush(*streams: TextIO) -> None:
    for stream in streams:
        with contextlib.suppress(Exception):  # a closed or absent stream has nothing to lose
            stream.flush()
