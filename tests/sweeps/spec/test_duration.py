"""Lengths of time are hours, minutes and seconds, in this order, each with its letter."""

import pytest

from sweeps.spec.duration import in_words, positive_seconds, seconds_of
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


@pytest.mark.parametrize(("value", "seconds"), [("20m", 1200), (90, 90), (0.5, 0.5), (None, None)])
def test_a_sweep_file_may_give_seconds_as_a_number(value: object, seconds: float | None) -> None:
    assert positive_seconds("leg_timeout", value) == seconds


@pytest.mark.parametrize("value", [0, -1, True, float("nan"), [20], "0s", "soon"])
def test_no_time_at_all_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="leg_timeout must be a time like"):
        positive_seconds("leg_timeout", value)


@pytest.mark.parametrize("value", [float("inf"), 10**400, "99999999h"])
def test_longer_than_a_year_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="leg_timeout must be from 0 s to a year"):
        positive_seconds("leg_timeout", value)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.5, "0.5 s"), (45, "45 s"), (60, "1 min"), (1200, "20 min"), (5400, "1 h 30 min"), (7200, "2 h")],
)
def test_a_time_is_shown_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
