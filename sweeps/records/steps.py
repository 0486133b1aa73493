"""The steps of a trial by column, as results need them: hundreds of thousands of rows in seconds.

Arrow reads a part of JSON lines far faster than Python does, but it is stricter than our rows: it rejects numbers that
are stored as "NaN", and everything in a part whose tail is incomplete. So each part is tried with Arrow, and one that
it rejects, or of which it would make something else than the tolerant decoder, is decoded row by row. Both ways give
the same steps.

pyarrow is loaded with the first row: a trial that has not begun does not need it.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, get_args, get_type_hints

from sweeps.records.arrow import arrow, arrow_compute, arrow_json
from sweeps.records.rows import UNKNOWN_IN_LOGS, StepRow, decode_rows


class Steps:
    """Steps in order, each as one attempt ran it. Columns are named as the fields of StepRow."""

    def __init__(self, table: Any = None) -> None:
        self._table = table if table is not None and table.num_rows else None
        self._lists: dict[str, list[Any]] = {}
        self._load: Callable[[], Steps] | None = None
        self._count = 0

    @classmethod
    def later(cls, count: int, load: "Callable[[], Steps]") -> "Steps":
        """So many steps that are read when a column is first asked for."""
        steps = cls()
        if count:
            steps._load, steps._count = load, count
        return steps

    def fresh(self) -> "Steps":
        """These steps; if they are not read yet, read for the caller alone, who can let go of them."""
        return self if self._load is None else self._load()

    def _read(self) -> Any:
        """The table, or None if there are no steps."""
        if self._load is not None:
            self._table, self._load = self._load().table, None
        return self._table

    @classmethod
    def of(cls, rows: Iterable[StepRow]) -> "Steps":
        """The steps of these rows."""
        listed = list(rows)
        if not listed:
            return cls()
        values = {name: [getattr(row, name) for row in listed] for name in _KINDS}
        return cls(arrow().Table.from_pydict(values, schema=schema_of_steps()))

    @classmethod
    def joined(cls, parts: Iterable["Steps"]) -> "Steps":
        """All parts, one after the other."""
        tables = [part.table for part in parts if part]
        if len(tables) <= 1:
            return cls(*tables)
        return cls(arrow().concat_tables(tables).combine_chunks())

    @property
    def table(self) -> Any:
        """A pyarrow.Table with a column for each field of StepRow; of no rows if there are none."""
        table = self._read()
        return schema_of_steps().empty_table() if table is None else table

    def __len__(self) -> int:
        if self._load is not None:
            return self._count
        return 0 if self._table is None else self._table.num_rows

    def __getitem__(self, part: slice) -> "Steps":
        if not len(self):
            return self
        start, stop, stride = part.indices(len(self))
        return self if (start, stop) == (0, len(self)) and stride == 1 else self.take(range(start, stop, stride))

    def take(self, places: Sequence[int]) -> "Steps":
        """The steps at these places, in that order."""
        table = self._read()
        if table is None or not places:
            return Steps()
        if isinstance(places, range) and places.step == 1:
            return Steps(table.slice(places.start, len(places)))
        return Steps(table.take(arrow().array(places, type=arrow().int64())))

    def where(self, chosen: Sequence[bool]) -> "Steps":
        """The steps for which `chosen` holds."""
        return self.take([place for place, is_chosen in enumerate(chosen) if is_chosen])

    def floats(self, name: str) -> list[float]:
        """A column that every step of our trainer has. NaN stays NaN, and is what an imported step lacks."""
        values = self._listed(name)
        return [math.nan if value is None else value for value in values] if None in values else values

    def known(self, name: str) -> list[float | None]:
        """A column of numbers, None where a step has not measured it."""
        return self._listed(name)

    def ints(self, name: str) -> list[int]:
        """A column of whole numbers that every step has."""
        return self._listed(name)

    def layers(self, name: str) -> list[tuple[float, ...] | None]:
        """A column with a number for each layer."""
        return [None if value is None else tuple(value) for value in self._listed(name)]

    def texts(self, name: str) -> list[str | None]:
        """A column of texts, None where a step has none."""
        return self._listed(name)

    @property
    def flags(self) -> list[tuple[str, ...]]:
        """The flags of each step."""
        return [tuple(value) for value in self._listed("flags")]

    def rows(self) -> list[StepRow]:
        """The steps as rows."""
        table = self._read()
        if table is None:
            return []
        lists = [name for name, kind in _KINDS.items() if kind in ("float64s", "texts")]
        values = [dict(row) for row in table.to_pylist()]
        for row in values:
            row.update({name: tuple(row[name]) for name in lists if row[name] is not None})
        return [StepRow(**row) for row in values]

    def _listed(self, name: str) -> list[Any]:
        if name not in _KINDS:
            raise KeyError(name)
        table = self._read()
        if table is None:
            return []
        if name not in self._lists:
            column = table.column(name)
            is_plain = _KINDS[name] in ("float64", "int64") and column.null_count == 0
            self._lists[name] = column.to_numpy().tolist() if is_plain else column.to_pylist()
        return self._lists[name]


def decode_steps(data: bytes) -> tuple[Steps, bool]:
    """As `decode_rows`, by column: all whole rows of a part, and whether anything else was there."""
    table = _read_fast(data) if data else None
    if table is not None:
        return Steps(table), False
    rows, is_torn = decode_rows(data)
    return Steps.of(rows), is_torn


def merge_steps(steps: Steps) -> Steps:
    """Each step once, in order: of several attempts that cover a step, the latest wins."""
    numbers, attempts = steps.ints("step"), steps.ints("attempt")
    if all(a < b for a, b in itertools.pairwise(numbers)):
        return steps
    latest: dict[int, int] = {}
    for place, number in enumerate(numbers):
        known = latest.get(number)
        if known is None or attempts[place] >= attempts[known]:
            latest[number] = place
    return steps.take([latest[number] for number in sorted(latest)])


def _read_fast(data: bytes) -> Any:
    """The table of a part in which every line is a whole row that Arrow can hold; None for any other part."""
    if not data.isascii() or not data.endswith(b"\n"):
        return None
    pa, json = arrow(), arrow_json()
    try:
        table = json.read_json(
            pa.BufferReader(data),
            read_options=json.ReadOptions(use_threads=False, block_size=len(data)),
            parse_options=json.ParseOptions(explicit_schema=schema_of_steps(), unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None
    is_whole = table.num_rows == data.count(b"\n") and all(table.column(name).null_count == 0 for name in _required())
    logged = [table.column(name).null_count for name in UNKNOWN_IN_LOGS]
    is_imported = table.column("slowest_rank").null_count == table.num_rows
    is_whole = is_whole and (is_imported or not any(logged))
    lists = (table.column(name) for name, kind in _KINDS.items() if kind in ("float64s", "texts"))
    is_whole = is_whole and all(part.flatten().null_count == 0 for column in lists for part in column.chunks)
    return table if is_whole and not _has_negative(table) else None


def _has_negative(table: Any) -> bool:
    """True if any whole number is below 0, which no row holds."""
    smallest = (arrow_compute().min(table.column(name)).as_py() for name, kind in _KINDS.items() if kind == "int64")
    return any(number is not None and number < 0 for number in smallest)


def _kind_of(hint: Any) -> str:
    alternatives = [a for a in get_args(hint) or (hint,) if a is not type(None)]
    if tuple[float, ...] in (hint, *alternatives):
        return "float64s"
    if hint == tuple[str, ...]:
        return "texts"
    return {float: "float64", int: "int64", str: "text", bool: "bool"}[alternatives[0]]


_KINDS = {field.name: _kind_of(get_type_hints(StepRow)[field.name]) for field in fields(StepRow)}

COLUMNS = tuple(_KINDS)
"""The names of all columns."""


@cache
def _required() -> tuple[str, ...]:
    hints = get_type_hints(StepRow)
    known = set(_KINDS) - set(UNKNOWN_IN_LOGS)
    return tuple(name for name in _KINDS if name in known and type(None) not in get_args(hints[name]))


@cache
def schema_of_steps() -> Any:
    """The pyarrow.Schema of a table of steps: the fields of StepRow."""
    pa = arrow()
    kinds = {
        "float64": pa.float64(),
        "int64": pa.int64(),
        "text": pa.string(),
        "bool": pa.bool_(),
        "float64s": pa.list_(pa.float64()),
        "texts": pa.list_(pa.string()),
    }
    return pa.schema([pa.field(name, kinds[kind]) for name, kind in _KINDS.items()])
