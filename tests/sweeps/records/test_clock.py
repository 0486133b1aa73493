"""A duration is what its driver measured; of two recorded times it is known only if they are in order."""

from dataclasses import replace

import pytest

from sweeps.records.clock import wall_s
from sweeps.records.documents import AttemptRecord

NOON, LATER = "2026-01-01T12:00:00Z", "2026-01-01T12:01:30Z"


@pytest.mark.parametrize(
    ("started", "ended", "run_s", "wanted"),
    [
        (NOON, LATER, None, 90.0),
        (LATER, NOON, None, None),  # the clock was set back
        (LATER, NOON, 88.0, 88.0),
        (NOON, LATER, 88.0, 88.0),  # whatever the clock says
        (NOON, None, None, None),
    ],
)
def test_a_clock_that_is_set_changes_no_duration_and_makes_none_negative(
    started: str, ended: str | None, run_s: float | None, wanted: float | None
) -> None:
    attempt = AttemptRecord(number=0, host="h", pid=1, started_utc=started, num_workers=1)
    assert wall_s(replace(attempt, ended_utc=ended, run_s=run_s)) == wanted
