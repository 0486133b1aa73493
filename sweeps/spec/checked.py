"""Stored values as the dataclasses that they claim to be: every type and range is checked where a document is read.

Who can write an experiment can write anything into it, and a disk can too. What does not fit is damage, named by
file and field, and never a wrong number or an exception somewhere else. Unknown keys are ignored, so that a later
version can add some; a field with a default can be missing.
"""

import dataclasses
import math
import re
import types
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from sweeps.spec.errors import CorruptData

T = TypeVar("T")

_INT32, _INT64 = (0, 2**31 - 1), (0, 2**63 - 1)  # what the tables' columns hold
_RANGES = {
    "pid": (1, 2**31 - 1),
    "pid_started": _INT64,
    "started": _INT64,
    "num_params": _INT64,
    "num_active_params": _INT64,
    "total_batch_tokens": _INT64,
    "gpu_throttle_bits": _INT64,
}
_YEARS = range(1970, 2200)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class _Unfit(Exception):
    """A value that is not what its field needs; says which field and what was seen."""


def typed(kind: type[T], values: Any, where: str, *, given: Mapping[str, Any] | None = None) -> T:
    """The dataclass `kind` from the JSON object of the file `where`. Raises CorruptData, naming file and field.

    Integers are 0 or more and fit a column of the tables; numbers are finite; names that end in `_utc` are moments.
    Fields in `given` are read already.
    """
    try:
        if not isinstance(values, dict):
            raise _Unfit(f"it must hold a JSON object, not {type(values).__name__}")
        return _built(kind, cast("dict[str, Any]", values), given or {})
    except _Unfit as problem:
        raise CorruptData(f"{where} is damaged: {problem}; put back an earlier copy of it") from None


def moment(text: str) -> datetime:
    """The moment of an ISO 8601 text with a time zone. Raises ValueError for any other text."""
    seen = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if seen.tzinfo is None or seen.year not in _YEARS:
        raise ValueError(f"{text!r} is not a moment with a time zone")
    return seen.astimezone(UTC)


def printable(text: str) -> str:
    """The text with U+FFFD for what no file or terminal can encode: halves of surrogate pairs."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@cache
def _fields(kind: type[Any]) -> dict[str, tuple[Any, bool]]:
    """Type and necessity of each field."""
    hints, missing = get_type_hints(kind), dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
    }


def check_fields(kind: type[Any], values: Mapping[str, Any], where: str) -> None:
    """Raises CorruptData if a field of `kind` that is among the values is not of its type; none is needed."""
    try:
        for name, (hint, _) in _fields(kind).items():
            if values.get(name) is not None:
                _fit(hint, values[name], name)
    except _Unfit as problem:
        raise CorruptData(f"{where} is damaged: {problem}; put back an earlier copy of it") from None


def plain_name(name: str, what: str) -> str:
    """A name that can be part of a path and leads nowhere else. Raises CorruptData for any other."""
    if not _NAME.fullmatch(name):
        raise CorruptData(f"{what} {_shown(name)} cannot name a folder")
    return name


@cache
def _origin(hint: Any) -> Any:
    return get_origin(hint)


def _built(kind: type[T], values: Mapping[str, Any], given: Mapping[str, Any]) -> T:
    fields = _fields(kind)
    missing = [name for name, (_, is_needed) in fields.items() if is_needed and name not in {**values, **given}]
    if missing:
        raise _Unfit(f"it lacks {', '.join(missing)}")
    known = {name: hint for name, (hint, _) in fields.items() if name in values and name not in given}
    return kind(**given, **{name: _fit(hint, values[name], name) for name, hint in known.items()})


def _fit(hint: Any, value: Any, name: str) -> Any:
    """The value as its field's type."""
    if hint in _SCALARS:
        return _SCALARS[hint](value, name)
    origin = _origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _fit_one_of(get_args(hint), value, name)
    if origin is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, dict):
            return _built(cast("type[Any]", hint), cast("dict[str, Any]", value), {})
    elif origin in (list, tuple):
        if isinstance(value, list):
            items = [_fit(get_args(hint)[0], item, name) for item in cast("list[Any]", value)]
            return tuple(items) if origin is tuple else items
    elif origin is dict and isinstance(value, dict):
        of = get_args(hint)[1]
        items = cast("dict[str, Any]", value).items()
        return {printable(key): _fit(of, item, f"{name}.{key}") for key, item in items}
    raise _unfit(hint, value, name)


def _fit_one_of(hints: tuple[Any, ...], value: Any, name: str) -> Any:
    if value is None and type(None) in hints:
        return None
    problems: list[_Unfit] = []
    for hint in hints:
        if hint is not type(None):
            try:
                return _fit(hint, value, name)
            except _Unfit as problem:
                problems.append(problem)
    raise problems[0] if problems else _unfit(hints, value, name)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _unfit(str, value, name)
    if name.endswith("_utc"):
        try:
            moment(value)
        except (ValueError, OverflowError):
            raise _Unfit(f"{name} must be a moment like 2026-01-31T12:00:00Z, got {_shown(value)}") from None
    return printable(value)


def _integer(value: Any, name: str) -> int:
    low, high = _RANGES.get(name, _INT32)
    if value.__class__ is not int:
        raise _unfit(int, value, name)
    if not low <= value <= high:
        raise _Unfit(f"{name} must be between {low} and {high}, got {_shown(value)}")
    return value


def _number(value: Any, name: str) -> float:
    if value.__class__ is int and -(2**1000) < value < 2**1000:
        return float(value)
    if value.__class__ is not float or not math.isfinite(value):
        raise _unfit(float, value, name)
    return value


def _truth(value: Any, name: str) -> bool:
    if value.__class__ is not bool:
        raise _unfit(bool, value, name)
    return value


_SCALARS: dict[Any, Any] = {str: _text, int: _integer, float: _number, bool: _truth}
_NEEDED = {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false"}


def _unfit(hint: Any, value: Any, name: str) -> _Unfit:
    needed = _NEEDED.get(hint) or getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
    if get_origin(hint) is Literal:
        needed = f"one of {', '.join(get_args(hint))}"
    return _Unfit(f"{name} must be {needed}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """A value for a sentence: short, whatever it is."""
    if isinstance(value, int) and not -(10**20) < value < 10**20:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
