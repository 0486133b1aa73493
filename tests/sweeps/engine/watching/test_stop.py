"""The first signal is noted, the second one ends at once."""

import os
import signal

import pytest

from sweeps.engine.watching.stop import StopAtOnce, StopState, signals_into


def test_the_first_signal_is_noted_and_the_second_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    state = StopState(grace_s=60)
    with signals_into(state):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # the same request, sent to the process and to its group
        assert state.first is signal.SIGTERM
        assert state.was_asked
        monkeypatch.setattr("sweeps.engine.watching.stop.ECHO_S", 0.0)
        with pytest.raises(StopAtOnce):
            os.kill(os.getpid(), signal.SIGINT)
    assert state.first is signal.SIGTERM


def test_an_ignored_signal_is_heard_again_and_ignored_afterwards() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        state = StopState(grace_s=60)
        with signals_into(state):
            os.kill(os.getpid(), signal.SIGINT)
        assert state.first is signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_grace_time_runs_from_the_first_request() -> None:
    within, over = StopState(grace_s=60), StopState(grace_s=-1)
    assert not over.is_grace_over()
    within.begin()
    over.begin()
    assert not within.is_grace_over()
    assert over.is_grace_over()


def test_a_signal_after_a_request_is_the_first_signal() -> None:
    state = StopState(grace_s=60)
    state.begin()
    state.note(signal.SIGINT)
    assert state.first is signal.SIGINT


def test_a_notice_before_a_time_limit_is_a_wish_but_no_first_signal() -> None:
    state = StopState(grace_s=60)
    with signals_into(state):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)  # repeated as often as the job manager likes
        assert state.wish() == "SIGUSR1"
        assert state.first is None
        os.kill(os.getpid(), signal.SIGTERM)  # at the limit itself
    assert state.wish() == "SIGTERM"


def test_a_run_wants_to_stop_once_its_time_is_over() -> None:
    assert StopState(grace_s=60).wish() is None
    assert StopState(grace_s=60, stop_after_s=3600).wish() is None
    assert StopState(grace_s=60, stop_after_s=0).wish() == "--stop-after 0 s"
