"""A document that storage may not hold."""

from sweeps.records.documents import D, from_bytes
from sweeps.records.store import Store


def stored_document(store: Store, kind: type[D], path: str) -> D | None:
    """The document at a path, None if there is none. Raises CorruptData for one that is damaged, OSError of storage."""
    try:
        data = store.read(path)
    except FileNotFoundError:
        return None
    return from_bytes(kind, data, store.uri_of(path))
