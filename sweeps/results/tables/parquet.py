"""legs.parquet and steps.parquet, written whole, wherever the experiment lies or where the user says."""

from typing import Any

from sweeps.records.arrow import arrow, arrow_parquet
from sweeps.records.experiment import Experiment
from sweeps.records.store import Store
from sweeps.results.measures.snapshot import Snapshot, read_snapshot
from sweeps.results.tables.build import legs_table, steps_table

_ROWS_PER_GROUP = 100_000


def export_experiment(experiment: Experiment, out: str | None = None) -> list[str]:
    """Writes both tables to `out`, by default EXP/export; the addresses of the files."""
    return export_snapshot(read_snapshot(experiment), export_store(experiment, out))


def export_store(experiment: Experiment, out: str | None) -> Store:
    """Where the tables go: `out`, by default EXP/export."""
    return Store(out or experiment.store.uri_of("export"))


def export_snapshot(snapshot: Snapshot, store: Store) -> list[str]:
    """Writes both tables of one snapshot into a folder."""
    tables = {"legs.parquet": legs_table(snapshot), "steps.parquet": steps_table(snapshot)}
    for name, table in tables.items():
        store.write(name, _parquet_bytes(table))
    return [store.uri_of(name) for name in tables]


def _parquet_bytes(table: Any) -> bytes:
    sink = arrow().BufferOutputStream()
    arrow_parquet().write_table(
        table, sink, compression="zstd", compression_level=3, row_group_size=_ROWS_PER_GROUP, use_dictionary=True
    )
    return sink.getvalue().to_pybytes()
