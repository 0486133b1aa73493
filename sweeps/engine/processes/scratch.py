"""Checkpoints on a rank's own disk, on their way to or from object storage.

A rank removes them itself; of a rank that was killed they are found by its process in their names.
"""

import os
import shutil
import tempfile
from pathlib import Path

from sweeps.records.owner import process_started


def prefix() -> str:
    """How the names of this process's temporary folders begin."""
    return prefix_of(os.getpid(), process_started(os.getpid()))


def prefix_of(pid: int, started: int | None) -> str:
    """Returns how the names of a process's scratch folders begin; `started` tells it from a later one of its pid."""
    return f"nanochat-sweep-checkpoint-{pid:d}-{started or 0:d}-"


def new_folder() -> Path:
    """An empty folder of this rank."""
    return Path(tempfile.mkdtemp(prefix=prefix()))


def remove_left(pid: int, started: int | None) -> None:
    """Removes what a rank that has ended left among its host's temporary files. Never follows a link."""
    if process_started(pid) == started:
        return  # it lives
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix_of(pid, started)}*"):
        shutil.rmtree(folder, ignore_errors=True)
