"""Recorded wall-clock times, of clocks that can be wrong: what cannot be a time is unknown, what ran backwards too."""

from datetime import UTC, datetime

from sweeps.records.documents import AttemptRecord, parse_utc


def recorded_moment(text: str | None) -> datetime | None:
    """The moment that was recorded, in UTC; None if none was or the text is no time."""
    if not isinstance(text, str):
        return None
    try:
        parsed = parse_utc(text)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def seconds_between(start: str | None, end: str | None) -> float | None:
    """How long, if both moments are known and the clock was not set back in between."""
    first, last = recorded_moment(start), recorded_moment(end)
    if first is None or last is None or last < first:
        return None
    return (last - first).total_seconds()


def wall_s(attempt: AttemptRecord) -> float | None:
    """How long an attempt took; None while it runs or if that is not known.

    Its driver's own measurement if there is one. Older versions stored none.
    """
    return seconds_between(attempt.started_utc, attempt.ended_utc) if attempt.run_s is None else attempt.run_s
