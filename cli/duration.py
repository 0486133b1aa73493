"""Lengths of time as people type them: 30s, 50m, 2h, 1h30m."""

import re

_SECONDS = {"h": 3600, "m": 60, "s": 1}
_FORM = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def seconds_of(option: str, text: str | None) -> float | None:
    """The seconds that an option's value means, None for none. Raises UsageError where it is no length of time."""
    from sweeps.spec.errors import UsageError

    if text is None:
        return None
    found = _FORM.fullmatch(text.strip())
    numbers = [int(number or 0) for number in found.groups()] if found else []
    total = sum(number * unit for number, unit in zip(numbers, _SECONDS.values(), strict=False))
    if total <= 0:
        raise UsageError(f"{option} must be a time like 30s, 50m, 2h or 1h30m, got {text!r}")
    return float(total)
