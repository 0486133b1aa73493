"""One row per optimizer step, as JSON lines: what rank 0 stores and all results are made of.

A row is the trainer's StepStats plus the trial and the attempt that ran the step. JSON knows neither NaN nor infinity,
and a loss that became NaN must not vanish, so such a number is stored as the string "NaN", "Infinity" or "-Infinity".

A line counts only when it is whole: it ends in a newline and is one complete object, whose whole numbers fit into 64
bits. Whatever is not is skipped and reported, so a file torn at any byte still gives all the rows before the tear. A
number that is too large for a float is infinite. Keys that this version does not know are
ignored and optional ones can be missing: rows of other versions stay readable.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, cast, get_type_hints

from nanochat.stats import StepStats, stats_as_dict


@dataclass(frozen=True, kw_only=True)
class StepRow(StepStats):
    """A step's statistics and who ran it."""

    trial: str
    attempt: int  # counts from 0
    done_utc: str | None = None  # when the row was made, right after the step
    bf16_mfu_printed_pct: float | None = None  # as another trainer's log says it, against the peak that it assumes

    @classmethod
    def of(cls, stats: StepStats, *, trial: str, attempt: int, done_utc: str | None = None) -> "StepRow":
        """The row of a step that the trainer has just reported."""
        return cls(**vars(stats), trial=trial, attempt=attempt, done_utc=done_utc)


_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_WHOLE = range(2**63)  # what the tables' columns hold; nothing that is counted is negative
_HINTS = get_type_hints(StepRow)
_NAMES = tuple(f.name for f in fields(StepRow))
UNKNOWN_IN_LOGS = (
    *("num_steps", "loss", "loss_ema", "lr_mult", "dt_ms", "dt_median_ms", "slowest_rank"),
    *("tok_per_sec", "epoch", "train_time_s", "peak_mib"),
)
"""What our trainer always measures and another trainer's log can leave open. All of them can be null in a row whose
`slowest_rank` is: it was imported, as no log names that rank."""

_OPTIONAL = tuple(n for n in _NAMES if type(None) in getattr(_HINTS[n], "__args__", ()))
_OPTIONAL_IF_IMPORTED = (*_OPTIONAL, *UNKNOWN_IN_LOGS)
_NUMBERS = tuple(n for n in _NAMES if float in (_HINTS[n], *getattr(_HINTS[n], "__args__", ())))
_INTEGERS = tuple(n for n in _NAMES if int in (_HINTS[n], *getattr(_HINTS[n], "__args__", ())))
_TEXTS = tuple(n for n in _NAMES if _HINTS[n] in (str, str | None))
_LISTS = tuple(n for n in _NAMES if tuple[float, ...] in getattr(_HINTS[n], "__args__", ()))


def encode_rows(rows: Iterable[StepRow]) -> bytes:
    """One JSON object per row, each line ended by a newline."""
    return b"".join(_encode(row) for row in rows)


def decode_rows(data: bytes) -> tuple[list[StepRow], bool]:
    """All whole rows, and whether anything else was there (an incomplete tail, a damaged line)."""
    rows: list[StepRow] = []
    *lines, rest = data.split(b"\n")
    torn = rest != b""
    for line in lines:
        row = _decode(line)
        if row is None:
            torn = True
        else:
            rows.append(row)
    return rows, torn


def _encode(row: StepRow) -> bytes:
    values = stats_as_dict(row)
    for name in _NUMBERS:
        values[name] = _plain(values[name])
    for name in _LISTS:
        values[name] = values[name] and [_plain(value) for value in values[name]]
    return json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _plain(value: float | None) -> float | str | None:
    """What JSON can hold of a number."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decode(line: bytes) -> StepRow | None:
    try:
        values: Any = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    try:
        return _row_of(cast("dict[str, Any]", values))
    except (KeyError, TypeError):
        return None


def _row_of(values: dict[str, Any]) -> StepRow:
    """Raises KeyError for a required value that is missing and TypeError for one of the wrong kind."""
    optional = _OPTIONAL if values.get("slowest_rank") is not None else _OPTIONAL_IF_IMPORTED
    for name in optional:
        values.setdefault(name, None)
    known = {name: values[name] for name in _NAMES}
    for name in _NUMBERS:
        value = known[name]
        if value.__class__ is not float and not (value is None and name in optional):
            known[name] = _number(cast("float | str", value))
    for name in _INTEGERS:
        value = known[name]
        is_whole = value.__class__ is int and value in _WHOLE
        if not is_whole and not (value is None and name in optional):
            raise TypeError(f"{name} must be a whole number from 0 below 2**63, got {value!r}")
    for name in _TEXTS:
        if known[name] is not None or name not in optional:
            _check_text(known[name])
    if known["flags"].__class__ is not list:
        raise TypeError(f"flags must be a list, got {known['flags']!r}")
    for flag in known["flags"]:
        _check_text(flag)
    known["flags"] = tuple(known["flags"])
    for name in _LISTS:
        if known[name] is not None:
            known[name] = _numbers(known[name])
    return StepRow(**known)


def _numbers(values: list[float | str]) -> tuple[float, ...]:
    """A list of numbers as it was stored; nearly always all of them are floats, and there are many."""
    if set(map(type, values)) <= {float}:
        return cast("tuple[float, ...]", tuple(values))
    return tuple(map(_number, values))


def _number(value: float | str) -> float:
    """One number as it was stored. JSON bounds no number, a float does."""
    if isinstance(value, str):
        return _NON_FINITE[value]
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _check_text(value: Any) -> None:
    """Raises TypeError for what is not a text, or one that no file can hold."""
    if value.__class__ is not str or (not value.isascii() and any(0xD800 <= ord(c) <= 0xDFFF for c in value)):
        raise TypeError(f"{value!r} is not a text")
