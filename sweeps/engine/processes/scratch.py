"""Checkpoints on a rank's own disk, on their way to or from object storage.

A rank removes them itself; of a rank that was killed they are found by its process id in their names.
"""

import os
import shutil
import tempfile
from pathlib import Path


def prefix(pid: int | None = None) -> str:
    """How the names of a rank's temporary folders begin; of this process without `pid`."""
    return f"nanochat-sweep-checkpoint-{pid or os.getpid()}-"


def new_folder() -> Path:
    """An empty folder of this rank."""
    return Path(tempfile.mkdtemp(prefix=prefix()))


def remove_left(temporary: Path, pid: int) -> None:
    """Removes what an ended rank has left among its host's temporary files."""
    for folder in temporary.glob(f"{prefix(pid)}*"):
        shutil.rmtree(folder, ignore_errors=True)
