"""legs, steps, events and verdicts as Parquet, written whole, wherever the experiment is or where the user says."""

import time
from collections.abc import Iterable
from typing import Any

from sweeps.records.arrow import arrow, arrow_parquet
from sweeps.records.experiment import Experiment
from sweeps.records.store import Store
from sweeps.results.measures.snapshot import Snapshot, read_snapshot
from sweeps.results.tables.build import ROWS_PER_GROUP, events_table, legs_table, step_groups, verdicts_table
from sweeps.results.tables.csv import csv_files

FILES = ("legs.parquet", "steps.parquet", "events.parquet", "verdicts.parquet")
_SORTED_BY = {
    "legs.parquet": ("leg", "block"),
    "steps.parquet": ("leg", "block", "step"),
    "events.parquet": ("leg", "block", "place"),
    "verdicts.parquet": (),
}
_S_PER_ROW, _SHARE = 1e-5, 20  # what a row of the steps costs, and the part of a launch's time that they may take


def export_experiment(experiment: Experiment, out: str | None = None) -> list[str]:
    """Writes the tables to `out`, by default EXP/export; the addresses of the files."""
    return export_snapshot(read_snapshot(experiment), export_store(experiment, out))


def export_store(experiment: Experiment, out: str | None) -> Store:
    """Where the tables go: `out`, by default EXP/export."""
    return Store(out or experiment.store.uri_of("export"))


def export_snapshot(snapshot: Snapshot, store: Store, *, csv: bool = False) -> list[str]:
    """Writes the tables of one snapshot into a folder, with `csv` the two files of text too; their addresses."""
    for name in FILES:
        store.write(name, _file_bytes(name, snapshot))
    written = csv_files(snapshot) if csv else {}
    for name, data in written.items():
        store.write(name, data)
    return [store.uri_of(name) for name in (*FILES, *written)]


def export_running(snapshot: Snapshot, store: Store) -> None:
    """As `export_snapshot`, for a launch that calls it after each leg.

    The table of steps grows with every leg, so while the experiment runs it is written only if that takes a small share
    of the time since it was written last; afterwards always.
    """
    for name in FILES:
        if name != "steps.parquet" or snapshot.state != "running" or _is_due(snapshot, store):
            store.write(name, _file_bytes(name, snapshot))


def _is_due(snapshot: Snapshot, store: Store) -> bool:
    written = store.stamps()["steps.parquet"][1] if store.exists("steps.parquet") else None
    num_rows = sum(len(trial.steps) for trial in snapshot.trials)
    return written is None or time.time() - written / 1e9 >= num_rows * _S_PER_ROW * _SHARE


def _file_bytes(name: str, snapshot: Snapshot) -> bytes:
    if name == "steps.parquet":
        return _parquet_bytes(name, step_groups(snapshot))
    tables = {"legs.parquet": legs_table, "events.parquet": events_table, "verdicts.parquet": verdicts_table}
    return _parquet_bytes(name, [tables[name](snapshot)])


def _parquet_bytes(name: str, parts: Iterable[Any]) -> bytes:
    """One row group for each part."""
    parquet, sink, writer = arrow_parquet(), arrow().BufferOutputStream(), None
    for part in parts:
        if writer is None:
            order = [parquet.SortingColumn(part.schema.get_field_index(column)) for column in _SORTED_BY[name]]
            writer = parquet.ParquetWriter(
                sink,
                part.schema,
                compression="zstd",
                compression_level=3,
                sorting_columns=order or None,
            )
        writer.write_table(part, row_group_size=max(ROWS_PER_GROUP, part.num_rows))
    assert writer is not None, "there is one part at least"
    writer.close()
    return sink.getvalue().to_pybytes()
