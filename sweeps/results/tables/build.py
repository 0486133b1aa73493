"""The exported tables in memory: one each of trials, events and verdicts, and one of steps in groups of rows.

Missing is null, never NaN. Text is dictionary-encoded, times are UTC in microseconds, and each field's metadata holds
its unit and meaning. Rows are sorted by leg, block and step. A value that its column cannot hold (NaN, infinite, too
large, no number at all) is null and named: what one trial stored never keeps the others from being exported.
"""

from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from nanochat.sizes import batch_tokens
from sweeps.records.arrow import arrow, arrow_compute
from sweeps.records.steps import Steps
from sweeps.results.measures.conditions import commit_of
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.tables.column import NOT_FINITE, About
from sweeps.results.tables.events import EVENT_COLUMNS, event_rows
from sweeps.results.tables.legs import LegSource, leg_columns, section_axes, section_column
from sweeps.results.tables.steps import OWN_COLUMNS, STEP_COLUMNS
from sweeps.results.tables.values import as_column, column_of, moments_of
from sweeps.results.tables.verdicts import VERDICT_COLUMNS, verdict_rows

ROWS_PER_GROUP = 65_536
_UNKNOWN = "unknown"


def legs_table(snapshot: Snapshot) -> Any:
    """A pyarrow.Table with one row per trial."""
    sources = [LegSource(snapshot, trial) for trial in sorted_trials(snapshot)]
    columns = [*leg_columns(), *map(section_column, section_axes(snapshot))]
    arrays: dict[str, Any] = {}
    lost: list[list[str]] = [[] for _ in sources]
    for column in columns:
        arrays[column.name], places = as_column([column.of(source) for source in sources], column.kind)
        for place in places:
            lost[place].append(column.name)
    arrays[NOT_FINITE], _ = as_column(lost, "texts")
    return _table(columns, arrays, file_metadata(snapshot, "legs"))


def events_table(snapshot: Snapshot) -> Any:
    """A pyarrow.Table with what happened to each trial."""
    rows = [row for trial in sorted_trials(snapshot) for row in event_rows(snapshot, trial)]
    return _of_rows(EVENT_COLUMNS, rows, file_metadata(snapshot, "events"))


def verdicts_table(snapshot: Snapshot) -> Any:
    """A pyarrow.Table with the verdict per gate, and per leg in speed."""
    return _of_rows(VERDICT_COLUMNS, verdict_rows(snapshot), file_metadata(snapshot, "verdicts"))


def steps_table(snapshot: Snapshot) -> Any:
    """A pyarrow.Table with each step of each trial once."""
    return arrow().concat_tables(step_groups(snapshot)).unify_dictionaries()


def step_groups(snapshot: Snapshot, rows_per_group: int = ROWS_PER_GROUP) -> Iterator[Any]:
    """The same table in parts of whole trials, in order, so that it need not fit into memory. One part at least."""
    about = file_metadata(snapshot, "steps")
    group, num_rows = list[TrialSnapshot](), 0
    for trial in sorted_trials(snapshot):
        if group and num_rows + len(trial.steps) > rows_per_group:
            yield _steps_of(snapshot, group, about)
            group, num_rows = [], 0
        group.append(trial)
        num_rows += len(trial.steps)
    yield _steps_of(snapshot, group, about)


def _steps_of(snapshot: Snapshot, trials: Sequence[TrialSnapshot], about: dict[str, str]) -> Any:
    parts = [trial.steps.fresh() for trial in trials]
    sizes = [len(part) for part in parts]
    table = Steps.joined(parts).table
    del parts
    counted = [counts for trial, size in zip(trials, sizes, strict=True) for counts in trial.counted[:size]]
    arrays: dict[str, Any] = {
        "leg": _repeated([t.trial.leg.name for t in trials], sizes),
        "trial": _repeated([t.trial.name for t in trials], sizes),
        "experiment": _repeated([snapshot.manifest.id for _ in trials], sizes),
        "block": _numbers_repeated([t.trial.block for t in trials], sizes).cast("int32"),
        "counted": as_column(counted, "bool")[0],
        "tokens_seen": _tokens_seen([_tokens_per_step(t) for t in trials], sizes, table.column("step")),
    }
    arrays["ended_utc"], lost_moments = moments_of(table.column("ended_unix_s"))
    lost = set(lost_moments)
    for column in STEP_COLUMNS:
        if column.name not in (*OWN_COLUMNS, "flags"):
            arrays[column.name], places = column_of(table.column(column.name), column.kind)
            lost.update(places)
    arrays["flags"] = table.column("flags")
    if lost:
        flags = arrays["flags"].to_pylist()
        arrays["flags"], _ = as_column([[*f, NOT_FINITE] if i in lost else f for i, f in enumerate(flags)], "texts")
    return _table(STEP_COLUMNS, arrays, about)


def tool_version() -> str:
    """The installed version of this package."""
    try:
        return metadata.version("nanochat-sweep")
    except metadata.PackageNotFoundError:
        return _UNKNOWN


def sorted_trials(snapshot: Snapshot) -> list[TrialSnapshot]:
    """By leg, then by block as a number."""
    return sorted(snapshot.trials, key=lambda t: (t.trial.leg.name, t.trial.block))


def file_metadata(snapshot: Snapshot, table: str) -> dict[str, str]:
    """What the file says of itself."""
    commits = [commit_of(snapshot, trial) for trial in snapshot.trials if trial.steps]
    return {
        "schema": f"nanochat-sweep/{table}/1",
        "tool_version": tool_version(),
        "git_commit": " ".join(dict.fromkeys(c for c in commits if c)) or snapshot.manifest.git_commit or _UNKNOWN,
        "experiment": snapshot.manifest.id,
        "experiment_sha256": snapshot.manifest.plan_digest,
    }


def _repeated(texts: Sequence[str], sizes: Sequence[int]) -> Any:
    """A text per trial, on each of its steps."""
    pa = arrow()
    known = list(dict.fromkeys(texts))
    places = {text: place for place, text in enumerate(known)}
    indices = _numbers_repeated([places[text] for text in texts], sizes).cast("int32")
    return pa.DictionaryArray.from_arrays(indices, pa.array(known, type=pa.string()))


def _numbers_repeated(numbers: Sequence[int | None], sizes: Sequence[int]) -> Any:
    """A number per trial, on each of its steps, as an int64 array."""
    pa = arrow()
    if not numbers:
        return pa.array([], type=pa.int64())
    return pa.concat_arrays([pa.repeat(pa.scalar(n, pa.int64()), size) for n, size in zip(numbers, sizes, strict=True)])


def _tokens_per_step(trial: TrialSnapshot) -> int | None:
    return batch_tokens(trial.trial.config) if trial.has_known_config else None


def _tokens_seen(tokens_per_step: Sequence[int | None], sizes: Sequence[int], steps: Any) -> Any:
    """Tokens per step times the steps done; null where that fits no column, or the batch is not known."""
    done = arrow_compute().add(steps.combine_chunks().cast("float64"), 1.0)
    tokens = arrow_compute().multiply(done, _numbers_repeated(tokens_per_step, sizes).cast("float64"))
    return column_of(arrow().chunked_array([tokens]), "int64")[0]


def _of_rows(columns: Sequence[About], rows: Sequence[dict[str, Any]], about: dict[str, str]) -> Any:
    arrays = {c.name: as_column([row.get(c.name) for row in rows], c.kind)[0] for c in columns}
    return _table(columns, arrays, about)


def _table(columns: Sequence[About], arrays: dict[str, Any], about: dict[str, str]) -> Any:
    pa = arrow()
    schema = pa.schema([column.field() for column in columns], metadata=about)
    return pa.Table.from_arrays([arrays[column.name] for column in columns], schema=schema)
