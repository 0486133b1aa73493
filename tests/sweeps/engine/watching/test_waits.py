"""Whatever waits says for what, the first time after ten seconds."""

import contextlib
import io
import sys
import threading
import time
from pathlib import Path

import pytest

from sweeps.engine.processes.output import others_into_log
from sweeps.engine.watching import waits
from sweeps.engine.watching.events import Event, Place, Waiting
from sweeps.engine.watching.waits import WaitClock, reporting, what_for
from sweeps.records.store import Store


def test_a_wait_is_reported_after_ten_seconds_a_minute_and_every_five_minutes() -> None:
    clock = WaitClock()
    reported = [now for now in range(0, 1000, 5) if clock.due("ranks", now) is not None]
    assert reported == [10, 60, 300, 600, 900]


def test_what_comes_next_is_another_wait_and_nothing_is_none() -> None:
    clock = WaitClock()
    assert [clock.due("ranks", now) for now in (0.0, 9.0)] == [None, None]
    assert [clock.due("first step", now) for now in (9.5, 19.0, 19.5)] == [None, None, 10.0]
    assert [clock.due(None, now) for now in (20.0, 100.0)] == [None, None]
    assert clock.due("first step", 101.0) is None


def test_a_look_that_comes_late_reports_a_wait_once() -> None:
    clock = WaitClock()
    assert [clock.due("ranks", now) for now in (0.0, 700.0, 701.0, 900.0)] == [None, 700.0, None, 900.0]


def test_what_is_waited_for_is_in_the_words() -> None:
    unmet = "2 CPUs, of which 1 of 2 are free"
    assert what_for(None, unmet) == f"a place for the next leg's driver: {unmet}"
    assert what_for(None, None) == "the next leg's driver to start it"
    assert what_for("ranks", unmet) == f"{unmet}, for its ranks"
    assert what_for("ranks", None) == "its ranks to start"
    assert what_for("first step", None) == "its first step"
    assert str(Waiting(what="its ranks to start", seconds=10.4, at=Place("exact-b1", 1, 2))) == (
        "[1/2] exact-b1: waiting for its ranks to start (10 s)"
    )


def test_a_blocked_main_thread_is_reported_where_its_own_words_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(waits, "FIRST_S", 0.05)
    shown, said = io.StringIO(), threading.Event()

    def tell(event: Event) -> None:
        print(event, file=sys.stderr)
        said.set()

    log = Store(str(tmp_path)).open_log("ray.log")
    with contextlib.redirect_stderr(shown), others_into_log(log), reporting("Ray to answer", tell):
        assert said.wait(20)
    assert shown.getvalue() == "waiting for Ray to answer (0 s)\n"


def test_what_is_quick_is_not_reported() -> None:
    events: list[Event] = []
    with reporting("Ray to answer", events.append):
        time.sleep(0.01)
    assert events == []
