"""Lengths of time as people type them: 30s, 50m, 2h, 1h30m."""

import re

_SECONDS = {"h": 3600, "m": 60, "s": 1}
_FORM = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")
LONGEST_S = 365 * 24 * 3600.0


def seconds_of(option: str, text: str | None) -> float | None:
    """The seconds that an option's value means, None for none. Raises UsageError if it is not a length of time."""
    from sweeps.spec.errors import UsageError

    if text is None:
        return None
    found = _FORM.fullmatch(text.strip())
    numbers = [int(number or 0) for number in found.groups()] if found else []
    total = sum(number * unit for number, unit in zip(numbers, _SECONDS.values(), strict=False))
    if total <= 0:
        raise UsageError(f"{option} must be a time like 30s, 50m, 2h or 1h30m, got {text!r}")
    check_seconds(option, total, text)
    return float(total)


def check_seconds(option: str, seconds: float, text: str) -> None:
    """Raises UsageError for a time that is negative, no number, or longer than a year, which nobody can mean."""
    from sweeps.spec.errors import UsageError

    if not 0 <= seconds <= LONGEST_S:
        raise UsageError(f"{option} must be from 0 s to a year ({LONGEST_S / 3600:.0f}h), got {text}")
