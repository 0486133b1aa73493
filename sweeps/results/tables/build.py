"""The exported tables, in memory: one Arrow table of trials and one of steps.

Missing is null, never NaN. Text is dictionary-encoded, times are UTC in microseconds, and each field's metadata holds
its unit and meaning. Rows are sorted by leg, trial and step.
"""

import math
from collections.abc import Sequence
from importlib import metadata
from typing import Any, TypeVar, cast

from sweeps.records.arrow import arrow
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.measures.trial import counted, measure
from sweeps.results.tables.columns import (
    LEG_COLUMNS,
    STEP_COLUMNS,
    Column,
    Kind,
    LegSource,
    StepSource,
    parameter_column,
    varying_fields,
)

S = TypeVar("S")


def legs_table(snapshot: Snapshot) -> Any:
    """A pyarrow.Table with one row per trial."""
    window = snapshot.plan.window_steps
    sources = [LegSource(snapshot, trial, measure(trial.rows, window)) for trial in snapshot.trials]
    sources.sort(key=lambda s: (s.trial.trial.leg.name, s.trial.trial.name))
    columns = [*LEG_COLUMNS, *map(parameter_column, varying_fields(snapshot))]
    return _table(columns, sources, _file_metadata(snapshot, "nanochat-sweep/legs/1"))


def steps_table(snapshot: Snapshot) -> Any:
    """A pyarrow.Table with each step of each trial once."""
    trials = sorted(snapshot.trials, key=lambda t: (t.trial.leg.name, t.trial.name))
    sources = [
        StepSource(trial, row, counts)
        for trial in trials
        for row, counts in zip(trial.rows, counted(trial.rows), strict=True)
    ]
    return _table(STEP_COLUMNS, sources, _file_metadata(snapshot, "nanochat-sweep/steps/1"))


def tool_version() -> str:
    """The installed version of this package."""
    try:
        return metadata.version("nanochat-sweep")
    except metadata.PackageNotFoundError:
        return "unknown"


def _file_metadata(snapshot: Snapshot, schema: str) -> dict[str, str]:
    return {
        "schema": schema,
        "tool_version": tool_version(),
        "git_commit": snapshot.manifest.git_commit or "unknown",
        "experiment": snapshot.manifest.id,
        "experiment_sha256": snapshot.manifest.plan_digest,
    }


def _table(columns: Sequence[Column[S]], sources: Sequence[S], file_metadata: dict[str, str]) -> Any:
    pa = arrow()
    fields: list[Any] = []
    arrays: list[Any] = []
    for column in columns:
        kind = _arrow_type(column.kind)
        about = {"unit": column.unit, "meaning": column.meaning}
        fields.append(pa.field(column.name, kind, metadata=about))
        arrays.append(pa.array([_missing_if_not_finite(column.of(s)) for s in sources], type=kind))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=file_metadata))


def _arrow_type(kind: Kind) -> Any:
    pa = arrow()
    kinds: dict[Kind, Any] = {
        "text": pa.dictionary(pa.int32(), pa.string()),
        "texts": pa.list_(pa.string()),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "float64s": pa.list_(pa.float64()),
        "bool": pa.bool_(),
        "utc": pa.timestamp("us", tz="UTC"),
    }
    return kinds[kind]


def _missing_if_not_finite(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_missing_if_not_finite(item) for item in cast("tuple[Any, ...]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
