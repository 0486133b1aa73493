"""What a field of a config can hold, told from its annotation, and how a value reads in a message or in JSON.

Settings leave Python: they go into JSON, Parquet, C++ and generators of random numbers. So whole numbers have at most
64 bits, other numbers are finite, and a value of a subclass, such as an enum's member, becomes the plain value that it
stands for: another process does not have the class.
"""

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, cast

_LARGEST = sys.float_info.max
_MOST_SHOWN = 80  # characters of a value in a message


def alternatives_of(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a field's annotation: plain types and literal values."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(a for member in typing.get_args(annotation) for a in alternatives_of(member))
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    return (annotation,)


def misfit(value: Any, alternatives: Sequence[Any]) -> str | None:
    """What is wrong with a value for a field with these alternatives, as `must be ..., got ...`; None if it fits."""
    if any(_fits(value, a) for a in alternatives):
        return None
    words = " or ".join(_word(a) for a in alternatives)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if float in alternatives:
            words = words.replace("float", "a finite float")
        elif isinstance(value, int) and int in alternatives:
            words = words.replace("int", "an int of at most 64 bits")
    return f"must be {words}, got {shown(value)}"


def shown(value: Any) -> str:
    """A value as a message shows it, shortened; also for a whole number that Python refuses to print."""
    try:
        text = repr(value)
    except ValueError:
        text = (
            f"a whole number of {value.bit_length():,} bits" if isinstance(value, int) else f"a {type(value).__name__}"
        )
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 20]}... ({len(text):,} characters)"


_PLAIN = frozenset((str, int, float, bool, type(None)))


def plain(value: Any) -> Any:
    """The value in JSON's own kinds: dicts, lists, and numbers and texts of exactly Python's own types."""
    if value.__class__ in _PLAIN:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in cast(Sequence[Any], value)]
    if isinstance(value, str):
        return str.__str__(value)  # an enum's member prints as something else
    return next((kind(value) for kind in (bool, int, float) if isinstance(value, kind)), value)


def _fits(value: Any, alternative: Any) -> bool:
    if not isinstance(alternative, type):
        return value == alternative and type(value) is type(alternative)
    if alternative is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST
    if alternative is int:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, alternative)


def _word(alternative: Any) -> str:
    if not isinstance(alternative, type):
        return repr(alternative)
    return "None" if alternative is type(None) else alternative.__name__
