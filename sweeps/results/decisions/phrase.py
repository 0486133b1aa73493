"""The pieces of a sentence: texts, legs, changes with intervals. What prints it decides how a leg's name looks."""

import math
from collections.abc import Callable

from sweeps.spec.legs import Leg
from sweeps.spec.words import percent_change

Phrase = tuple[str | Leg, ...]


def text_of(phrase: Phrase) -> str:
    """As plain text."""
    return "".join(piece if isinstance(piece, str) else piece.name for piece in phrase)


def interval_of(ratio: float | None, low: float | None, high: float | None) -> str:
    """`+2.7 % [+2.3, +3.1]`, without limits if there are none."""
    if ratio is None:
        return "-"
    return with_limits(percent_change(ratio), low, high, lambda v: percent_change(v).removesuffix(" %"))


def with_limits(value: str, low: float | None, high: float | None, text: Callable[[float], str]) -> str:
    """`value [low, high]`, without limits if there are none."""
    if low is None or high is None or not all(map(math.isfinite, (low, high))) or low == high:
        return value
    return f"{value} [{text(low)}, {text(high)}]"
