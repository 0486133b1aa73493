"""Lengths of time as people write them: 30s, 50m, 2h, 1h30m; in a sweep file also a number of seconds."""

import re
from typing import Any

from sweeps.spec.errors import UsageError

_SECONDS = {"h": 3600, "m": 60, "s": 1}
_FORM = re.compile(r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")
LONGEST_S = 365 * 24 * 3600.0


def seconds_of(name: str, text: str | None) -> float | None:
    """The seconds of a time in words, None for none. Raises UsageError, with the setting's name, for anything else."""
    if text is None:
        return None
    found = _FORM.fullmatch(text.strip())
    numbers = [int(number or 0) for number in found.groups()] if found else []
    total = sum(number * unit for number, unit in zip(numbers, _SECONDS.values(), strict=False))
    if total <= 0:
        raise UsageError(f"{name} must be a time like 30s, 50m, 2h or 1h30m, got {text!r}")
    check_seconds(name, total, text)
    return float(total)


def positive_seconds(name: str, value: Any) -> float | None:
    """The seconds of a number or of a time in words, None for none. Raises UsageError for what is not more than 0."""
    if value is None or isinstance(value, str):
        return seconds_of(name, value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise UsageError(f"{name} must be a time like 20m, or a number of seconds above 0, got {value!r}")
    check_seconds(name, value, repr(value))
    return float(value)


def check_seconds(name: str, seconds: float, text: str) -> None:
    """Raises UsageError for a time that is negative, not a number, or longer than a year, which is a typing error."""
    if not 0 <= seconds <= LONGEST_S:
        raise UsageError(f"{name} must be from 0 s to a year ({LONGEST_S / 3600:.0f}h), got {text}")


def in_words(seconds: float) -> str:
    """`45 s`, `20 min`, `1 h 30 min`: rounded to what matters at that length."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    parts = [f"{minutes // 60} h"] * (minutes >= 60) + [f"{minutes % 60} min"] * (minutes % 60 > 0)
    return " ".join(parts)
