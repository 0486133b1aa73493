"""Object storage inside a test's own process: a store in memory, which decides conditional puts as a cloud does."""

from urllib.parse import urlsplit

import pytest
from obstore.store import MemoryStore

ROOT = "test://bucket"


def bucket_in_memory(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """From now on addresses below `ROOT` lead into the store that is returned."""
    memory = MemoryStore()

    def opened(uri: str) -> tuple[MemoryStore, str]:
        parts = urlsplit(uri)
        return memory, f"{parts.netloc}{parts.path}"

    monkeypatch.setattr("sweeps.records.store.open_bucket", opened)
    return memory
