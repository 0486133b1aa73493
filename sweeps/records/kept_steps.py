"""A trial's steps by column, kept in one file so that its JSON lines are not read again.

The rows are the truth; this is a copy in Arrow's own format, which is read fifteen times as fast. It carries the stamp
of the row parts that it was made from: names, sizes and times of change. With another stamp, or if anything in it is
not as this version writes it, it counts as not there. It can be deleted at any time.
"""

import hashlib
import json
from typing import Any

from sweeps.records.arrow import arrow, arrow_ipc
from sweeps.records.layout import TrialFolders
from sweeps.records.steps import COLUMNS, Steps, schema_of_steps
from sweeps.records.store import Store
from sweeps.spec.errors import CorruptData

_FORMAT = "nanochat-sweep/steps/1"


def stamp_of_rows(store: Store, folders: TrialFolders) -> str:
    """The digest of this version's columns, and of which row parts there are, how large they are, when they changed."""
    listed = [(name, *stamp) for name, stamp in store.stamps(folders.rows).items() if name.endswith(".jsonl")]
    return hashlib.sha256(json.dumps([_FORMAT, COLUMNS, listed]).encode()).hexdigest()


def keep_steps(store: Store, folders: TrialFolders, steps: Steps, stamp: str) -> None:
    """Writes the copy. Raises OSError as storage does."""
    pa, table = arrow(), steps.table
    sink = pa.BufferOutputStream()
    marked = table.schema.with_metadata({"stamp": stamp})
    with arrow_ipc().new_file(sink, marked, options=arrow_ipc().IpcWriteOptions(compression="lz4")) as file:
        file.write_table(table.replace_schema_metadata({"stamp": stamp}))
    store.write(folders.kept_steps, sink.getvalue().to_pybytes(), lasting=False)


def kept_steps(store: Store, folders: TrialFolders, stamp: str) -> Steps | None:
    """The kept steps; None if there are none of that stamp."""
    try:
        data = store.read(folders.kept_steps)
    except (OSError, CorruptData):
        return None
    return _decoded(data, stamp)


def _decoded(data: bytes, stamp: str) -> Steps | None:
    """What is in the file, checked whole: a writer can have put anything there."""
    pa = arrow()
    try:
        options = arrow_ipc().IpcReadOptions(use_threads=False)
        file = arrow_ipc().open_file(pa.BufferReader(data), options=options)
        known: dict[Any, Any] = file.schema.metadata or {}
        if known.get(b"stamp") != stamp.encode() or not file.schema.equals(schema_of_steps()):
            return None
        table = file.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError):
        return None
    return Steps(table.replace_schema_metadata(None))
