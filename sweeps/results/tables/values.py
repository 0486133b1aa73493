"""Values into Arrow columns, whatever they are: what a column cannot hold becomes null, and its place is reported."""

import math
from collections.abc import Sequence
from typing import Any, cast

from sweeps.records.arrow import arrow, arrow_compute
from sweeps.results.tables.column import Kind, arrow_type

_WITH_FLOATS = ("float64", "float64s")
_LATEST_S = 4102444800.0  # the year 2100


def as_column(values: Sequence[Any], kind: Kind) -> tuple[Any, list[int]]:
    """A pyarrow.Array of Python values, and the places of those that it cannot hold."""
    if kind not in _WITH_FLOATS:
        try:
            return arrow().array(values, type=arrow_type(kind)), []
        except _refusals():
            pass  # looked at one by one below
    finite = [_finite(value) for value in values]
    lost = [place for place, (value, kept) in enumerate(zip(values, finite, strict=True)) if not _same(value, kept)]
    try:
        return arrow().array(finite, type=arrow_type(kind)), lost
    except _refusals():
        held = [value if _can_hold(value, kind) else None for value in finite]
        lost = [place for place, (value, kept) in enumerate(zip(values, held, strict=True)) if not _same(value, kept)]
        return arrow().array(held, type=arrow_type(kind)), lost


def column_of(stored: Any, kind: Kind) -> tuple[Any, list[int]]:
    """A column of stored steps as one of another kind of numbers, and the places of those that it cannot hold."""
    pa, pc = arrow(), arrow_compute()
    if kind == "float64":
        is_finite = pc.is_finite(stored)
        if pc.all(is_finite).as_py() in (True, None):
            return stored, []
        lost = [place for place, finite in enumerate(is_finite.to_pylist()) if finite is False]
        return pc.if_else(is_finite, stored, pa.scalar(None, pa.float64())), lost
    if kind == "float64s" and all(
        pc.all(pc.is_finite(part.flatten())).as_py() in (True, None) for part in stored.chunks
    ):
        return stored, []
    try:
        return (stored.cast(arrow_type(kind)), []) if kind != "float64s" else as_column(stored.to_pylist(), kind)
    except pa.ArrowInvalid:
        return as_column(stored.to_pylist(), kind)


def moments_of(seconds: Any) -> tuple[Any, list[int]]:
    """Seconds since 1970 as moments in UTC, and the places of those that are none."""
    pa, pc = arrow(), arrow_compute()
    is_moment = pc.and_(pc.greater_equal(seconds, 0.0), pc.less(seconds, _LATEST_S))  # neither holds for NaN
    lost = [place for place, holds in enumerate(is_moment.to_pylist()) if holds is False]
    kept = pc.if_else(is_moment, seconds, pa.scalar(None, pa.float64()))
    microseconds = pc.round(pc.multiply(kept, 1e6)).cast(pa.int64())
    return microseconds.cast(arrow_type("utc")), lost


def _finite(value: Any) -> Any:
    """The value, None for a number that is not finite, also inside a list."""
    if isinstance(value, tuple | list):
        return [_finite(item) for item in cast("Sequence[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _same(value: Any, kept: Any) -> bool:
    return list(cast("Sequence[Any]", value)) == kept if isinstance(value, tuple | list) else value is kept


def _can_hold(value: Any, kind: Kind) -> bool:
    try:
        arrow().array([value], type=arrow_type(kind))
    except _refusals():
        return False
    return True


def _refusals() -> tuple[type[BaseException], ...]:
    """What pyarrow raises for a value of the wrong type or size, or a text that is not Unicode."""
    return (arrow().ArrowException, OverflowError, TypeError, ValueError)
