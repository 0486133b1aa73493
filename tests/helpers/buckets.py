"""Object storage inside a test's own process: a store in memory, which decides conditional puts as a cloud does."""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from obstore.store import MemoryStore

from sweeps.records.store import Store

ROOT = "test://bucket"


def bucket_in_memory(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """From now on addresses below `ROOT` lead into the store that is returned."""
    memory = MemoryStore()

    def opened(uri: str) -> tuple[MemoryStore, str]:
        parts = urlsplit(uri)
        return memory, f"{parts.netloc}{parts.path}"

    monkeypatch.setattr("sweeps.records.store.open_bucket", opened)
    return memory


def disk_or_bucket(which: Literal["disk", "bucket"], folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of this name, in the folder or in a bucket in memory."""
    if which == "disk":
        return Store(str(folder / name))
    bucket_in_memory(monkeypatch)
    return Store(f"{ROOT}/{name}")
