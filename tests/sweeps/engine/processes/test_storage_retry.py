"""What is done again while storage refuses, and for how long."""

from collections.abc import Callable

import pytest

from sweeps.engine.processes import storage_retry
from sweeps.engine.processes.storage_retry import StorageLost, or_lost, with_retries


def refusing(times: int) -> Callable[[], int]:
    calls: list[None] = []

    def action() -> int:
        calls.append(None)
        if len(calls) <= times:
            raise OSError(5, "Input/output error")
        return len(calls)

    return action


def test_a_storage_that_refuses_for_a_while_is_asked_again() -> None:
    assert with_retries(refusing(3), retry_for_s=10, pause_s=0.01) == 4


def test_retries_of_storage_end() -> None:
    with pytest.raises(OSError, match="Input/output error"):
        with_retries(refusing(1000), retry_for_s=0.1, pause_s=0.01)


def test_an_error_that_is_not_storages_is_not_waited_for() -> None:
    def broken() -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        with_retries(broken, retry_for_s=10, pause_s=0.01)


def test_after_the_last_retry_the_fault_is_storages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_retry, "RETRY_FOR_S", 0.1)
    monkeypatch.setattr(storage_retry, "PAUSE_S", 0.01)
    assert or_lost("rows cannot be stored", refusing(3)) == 4
    with pytest.raises(StorageLost, match=r"rows cannot be stored: .*Input/output error"):
        or_lost("rows cannot be stored", refusing(1000))
