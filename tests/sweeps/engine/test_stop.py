"""The first signal is noted, the second one ends at once."""

import os
import signal

import pytest

from sweeps.engine.stop import StopAtOnce, StopState, signals_into


def test_the_first_signal_is_noted_and_the_second_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    state = StopState(grace_s=60)
    with signals_into(state):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # the same wish, sent to the process and to its group
        assert state.first is signal.SIGTERM
        assert state.was_asked
        monkeypatch.setattr("sweeps.engine.stop.ECHO_S", 0.0)
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
    patient, impatient = StopState(grace_s=60), StopState(grace_s=-1)
    assert not impatient.is_grace_over()
    patient.begin()
    impatient.begin()
    assert not patient.is_grace_over()
    assert impatient.is_grace_over()


def test_a_signal_after_a_request_is_the_first_signal() -> None:
    state = StopState(grace_s=60)
    state.begin()
    state.note(signal.SIGINT)
    assert state.first is signal.SIGINT
