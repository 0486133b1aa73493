"""Lengths of time are hours, minutes and seconds, in this order, each with its letter."""

import pytest

from cli.duration import seconds_of
from sweeps.spec.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("50m", 3000), ("2h", 7200), ("1h30m", 5400), ("1h1s", 3601), (" 90s ", 90)]
)
def test_a_time_is_its_seconds(text: str, seconds: float) -> None:
    assert seconds_of("--stop-after", text) == seconds


def test_no_time_is_none() -> None:
    assert seconds_of("--stop-after", None) is None


@pytest.mark.parametrize("text", ["", "50", "0s", "-5m", "30m1h", "1.5h", "5 m", "m", "1d", "soon", "٣s٤"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="--stop-after must be a time like 30s, 50m, 2h or 1h30m"):
        seconds_of("--stop-after", text)
