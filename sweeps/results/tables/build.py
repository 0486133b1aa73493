"""The exported tables, in memory: one Arrow table of trials and one of steps.

Missing is null, never NaN. Text is dictionary-encoded, times are UTC in microseconds, and each field's metadata holds
its unit and meaning. Rows are sorted by leg, trial and step. A value that its column cannot hold (NaN, infinite, too
large, no number at all) is null and named: what one trial stored never keeps the others from being exported.
"""

from collections.abc import Sequence
from importlib import metadata
from typing import Any

from sweeps.records.arrow import arrow
from sweeps.records.steps import Steps
from sweeps.results.measures.conditions import commit_of
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.tables.column import NOT_FINITE, About
from sweeps.results.tables.legs import LEG_COLUMNS, LegSource, parameter_column, varying_fields
from sweeps.results.tables.steps import STEP_COLUMNS
from sweeps.results.tables.values import as_column, column_of

_UNKNOWN = "unknown"


def legs_table(snapshot: Snapshot) -> Any:
    """A pyarrow.Table with one row per trial."""
    sources = [LegSource(snapshot, trial) for trial in _sorted(snapshot)]
    columns = [*LEG_COLUMNS, *map(parameter_column, varying_fields(snapshot))]
    arrays: dict[str, Any] = {}
    lost: list[list[str]] = [[] for _ in sources]
    for column in columns:
        arrays[column.name], places = as_column([column.of(source) for source in sources], column.kind)
        for place in places:
            lost[place].append(column.name)
    arrays[NOT_FINITE], _ = as_column(lost, "texts")
    return _table(columns, arrays, _file_metadata(snapshot, "nanochat-sweep/legs/1"))


def steps_table(snapshot: Snapshot) -> Any:
    """A pyarrow.Table with each step of each trial once."""
    trials = _sorted(snapshot)
    table = Steps.joined(trial.steps for trial in trials).table
    arrays: dict[str, Any] = {
        "leg": _repeated(trials, [t.trial.leg.name for t in trials]),
        "trial": _repeated(trials, [t.trial.name for t in trials]),
        "block": as_column([t.trial.block for t in trials for _ in range(len(t.steps))], "int32")[0],
        "counted": as_column([counts for t in trials for counts in t.counted], "bool")[0],
    }
    lost: set[int] = set()
    for column in STEP_COLUMNS:
        if column.name not in (*arrays, "flags"):
            arrays[column.name], places = column_of(table.column(column.name), column.kind)
            lost.update(places)
    arrays["flags"] = table.column("flags")
    if lost:
        flags = arrays["flags"].to_pylist()
        arrays["flags"], _ = as_column([[*f, NOT_FINITE] if i in lost else f for i, f in enumerate(flags)], "texts")
    return _table(STEP_COLUMNS, arrays, _file_metadata(snapshot, "nanochat-sweep/steps/1"))


def tool_version() -> str:
    """The installed version of this package."""
    try:
        return metadata.version("nanochat-sweep")
    except metadata.PackageNotFoundError:
        return _UNKNOWN


def _sorted(snapshot: Snapshot) -> list[TrialSnapshot]:
    return sorted(snapshot.trials, key=lambda t: (t.trial.leg.name, t.trial.name))


def _repeated(trials: Sequence[TrialSnapshot], texts: Sequence[str]) -> Any:
    """A text per trial, on each of its steps."""
    pa = arrow()
    places = [place for place, trial in enumerate(trials) for _ in range(len(trial.steps))]
    return pa.DictionaryArray.from_arrays(pa.array(places, type=pa.int32()), pa.array(texts, type=pa.string()))


def _file_metadata(snapshot: Snapshot, schema: str) -> dict[str, str]:
    commits = [commit_of(snapshot, trial) for trial in snapshot.trials if trial.steps]
    return {
        "schema": schema,
        "tool_version": tool_version(),
        "git_commit": " ".join(dict.fromkeys(c for c in commits if c)) or snapshot.manifest.git_commit or _UNKNOWN,
        "experiment": snapshot.manifest.id,
        "experiment_sha256": snapshot.manifest.plan_digest,
    }


def _table(columns: Sequence[About], arrays: dict[str, Any], file_metadata: dict[str, str]) -> Any:
    pa = arrow()
    schema = pa.schema([column.field() for column in columns], metadata=file_metadata)
    return pa.Table.from_arrays([arrays[column.name] for column in columns], schema=schema)
