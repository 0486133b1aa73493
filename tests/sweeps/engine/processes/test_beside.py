"""The thread beside a caller ends with it, however the caller ends."""

import threading

import pytest

from sweeps.engine.processes.beside import beside


def test_the_thread_has_ended_when_the_caller_leaves_by_an_error():
    ended: list[str] = []

    def work(over: threading.Event) -> None:
        assert over.wait(60)
        ended.append(threading.current_thread().name)

    def leave_by_an_error() -> None:
        with beside(work, name="worker"):
            raise KeyError(len(ended))

    with pytest.raises(KeyError, match="0"):
        leave_by_an_error()
    assert ended == ["worker"]


def test_a_thread_that_is_done_early_keeps_nobody():
    with beside(lambda over: None, name="short"):
        pass
    assert "short" not in [thread.name for thread in threading.enumerate()]
