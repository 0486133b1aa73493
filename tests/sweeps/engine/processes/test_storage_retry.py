"""What is done again while storage fails, and for how long."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.engine.processes import storage_retry
from sweeps.engine.processes.storage_retry import StorageLost, or_lost, with_retries
from sweeps.records.experiment import Experiment
from sweeps.records.store import Store
from sweeps.spec.errors import UsageError


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


def calls_until_it_gives_up(error: Exception) -> int:
    calls: list[None] = []

    def action() -> None:
        calls.append(None)
        raise error

    with pytest.raises(type(error)):
        with_retries(action, retry_for_s=0.05, pause_s=0.01)
    return len(calls)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.ENAMETOOLONG, "File name too long"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory"),
        OSError("When getting information for bucket 'x': AWS Error NO_SUCH_BUCKET during HeadBucket operation"),
        OSError("When reading 'x': AWS Error ACCESS_DENIED during GetObject operation: No response body."),
        UsageError("experiment mine has no trial 'exat-b1'"),
    ],
)
def test_what_no_waiting_changes_is_not_waited_for(error: Exception) -> None:
    assert calls_until_it_gives_up(error) == 1


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory"),  # a mount that is away
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.ESTALE, "Stale file handle"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
        OSError("When reading 'x': AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 28"),
    ],
)
def test_what_can_pass_is_tried_again(error: Exception) -> None:
    assert calls_until_it_gives_up(error) > 1


def test_a_wrong_name_or_address_is_not_taken_for_an_outage_but_an_experiment_that_vanished_is(
    tmp_path: Path, make_experiment: Callable[..., Experiment]
) -> None:
    experiment = make_experiment()

    def tries(action: Callable[[], object]) -> int:
        with pytest.raises(UsageError) as raised:
            action()
        return calls_until_it_gives_up(raised.value)

    assert tries(lambda: experiment.trial("nothing-b1")) == 1
    for address in ("s3://", "ftp://host/x", "s3://user:secret@bucket/x", "s3://bucket/x?region=y"):
        assert tries(lambda address=address: Store(address)) == 1
    assert tries(lambda: Experiment.open(str(tmp_path / "gone"))) > 1


def test_a_mistake_is_raised_as_it_is_and_an_outage_as_storages_fault() -> None:
    def mistaken() -> None:
        raise UsageError("experiment mine has no trial 'exat-b1'")

    def forbidden() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/storage")

    with pytest.raises(UsageError, match="has no trial"):
        or_lost("rows cannot be stored", mistaken)
    with pytest.raises(StorageLost, match=r"rows cannot be stored: .*Permission denied"):
        or_lost("rows cannot be stored", forbidden)


def test_after_the_last_retry_the_fault_is_storages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_retry, "RETRY_FOR_S", 0.1)
    monkeypatch.setattr(storage_retry, "PAUSE_S", 0.01)
    assert or_lost("rows cannot be stored", refusing(3)) == 4
    with pytest.raises(StorageLost, match=r"rows cannot be stored: .*Input/output error"):
        or_lost("rows cannot be stored", refusing(1000))
