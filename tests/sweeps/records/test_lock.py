"""One living owner at a time; a dead one is seen at once on its own machine and after a minute from elsewhere."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from sweeps.engine.processes.beside import beside
from sweeps.records.claims import Claim
from sweeps.records.documents import json_bytes, utc_now
from sweeps.records.liveness import Lease
from sweeps.records.lock import Lock, current_owner, watched_owner
from sweeps.records.owner import Owner
from sweeps.records.store import Store
from sweeps.spec.errors import CorruptData, Locked
from tests.helpers.buckets import disk_or_bucket
from tests.helpers.contention import all_at_once
from tests.helpers.owners import LONG_AGO, elsewhere, files, lease_bytes, lock, newest_lease, owner_elsewhere, plant


@pytest.fixture(params=["disk", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The same folder, once locked by exclusive files and once by leases as on object storage."""
    return disk_or_bucket(request.param, tmp_path, "exp", monkeypatch)


def dead_owner() -> Owner:
    """The owner that a process left behind which has ended."""
    script = "import json,dataclasses; from sweeps.records.owner import Owner; print(Owner.this_process())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return eval(done.stdout, {"Owner": Owner})


def test_the_second_owner_is_refused_and_told_host_pid_and_what_to_do(store: Store) -> None:
    first = lock(store)
    first.acquire()
    with pytest.raises(Locked, match=rf"process {os.getpid()} on \S+ since .*kill -INT {os.getpid()}"):
        lock(store).acquire()
    assert current_owner(store) == first.owner
    first.release()


def test_after_release_nobody_owns_it_and_the_next_one_may(store: Store) -> None:
    first, second = lock(store), lock(store)
    first.acquire()
    first.release()
    first.release()
    assert current_owner(store) is None
    second.acquire()
    assert current_owner(store) == second.owner
    second.release()


def test_a_release_that_storage_refused_can_be_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = lock(store)
    mine.acquire()

    def refuse(*arguments: object) -> Claim:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("sweeps.records.lock.replace_claim", refuse)
        with pytest.raises(OSError, match="No space left"):
            mine.release()
    assert current_owner(store) == mine.owner
    mine.release()
    assert current_owner(store) is None


def test_a_dead_owner_on_this_machine_is_replaced_at_once(store: Store) -> None:
    dead = dead_owner()
    plant(store, dead, datetime.now(UTC).isoformat())
    assert current_owner(store) is None
    successor = lock(store)
    successor.acquire()
    assert current_owner(store) == successor.owner
    successor.release()


@pytest.fixture
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners elsewhere are dead after 0.4 s of silence instead of a minute."""
    monkeypatch.setattr("sweeps.records.liveness.STALE_AFTER_S", 0.4)
    monkeypatch.setattr("sweeps.records.lock.POLL_S", 0.02)


@contextlib.contextmanager
def beating(store: Store, owner: Owner, heartbeat_utc: str) -> Iterator[None]:
    """An owner whose heart beats, with a clock that always says the same."""

    def beat(over: threading.Event) -> None:
        for number in count():
            plant(store, owner, heartbeat_utc, number)
            if over.wait(0.05):
                return

    plant(store, owner, heartbeat_utc)
    with beside(beat, name="beat"):
        yield


WRONG_CLOCKS = (LONG_AGO, "2099-01-01T00:00:00Z", None)


@pytest.mark.parametrize("heartbeat_utc", WRONG_CLOCKS)
def test_an_owner_on_another_host_is_refused_while_its_lease_changes_whatever_its_clock_says(
    store: Store, short_watch: None, monkeypatch: pytest.MonkeyPatch, heartbeat_utc: str | None
) -> None:
    monkeypatch.setattr("sweeps.records.liveness.STALE_AFTER_S", 10.0)  # a busy machine delays heartbeats
    elsewhere = owner_elsewhere()
    with beating(store, elsewhere, heartbeat_utc or utc_now()):
        with pytest.raises(Locked, match="on far-away"):
            lock(store).acquire()
        assert watched_owner(store) == elsewhere


@pytest.mark.parametrize("heartbeat_utc", WRONG_CLOCKS)
def test_a_silent_owner_on_another_host_is_replaced_after_a_while_whatever_its_clock_said(
    store: Store, short_watch: None, heartbeat_utc: str | None
) -> None:
    plant(store, owner_elsewhere(), heartbeat_utc or utc_now())
    assert watched_owner(store) is None
    begin_s, successor = time.monotonic(), lock(store)
    successor.acquire()
    assert time.monotonic() - begin_s > 0.4
    assert current_owner(store) == successor.owner
    successor.release()


def test_who_asks_once_gets_a_guess_and_who_asks_again_knows(store: Store, short_watch: None) -> None:
    elsewhere = owner_elsewhere()
    with beating(store, elsewhere, LONG_AGO):
        assert current_owner(store) is None
        time.sleep(0.2)
        assert current_owner(store) == elsewhere
    time.sleep(0.5)
    assert current_owner(store) is None


def test_a_lease_of_an_older_version_has_no_count_of_its_beats(store: Store) -> None:
    elsewhere = owner_elsewhere()
    values = dataclasses.asdict(Lease(owner=elsewhere, heartbeat_utc=utc_now()))
    del values["beat"]
    store.write("lock/owner-000001.json", json_bytes({"schema": "nanochat-sweep/lease/1", **values}))
    assert current_owner(store) == elsewhere


def test_of_many_that_take_over_from_a_dead_owner_exactly_one_wins(store: Store) -> None:
    plant(store, dead_owner(), LONG_AGO)
    won: list[Lock] = []
    refused: list[Locked] = []

    def contend(gate: Callable[[], object], _: int) -> None:
        mine = Lock(store, Owner.this_process())
        gate()
        try:
            mine.acquire()
            won.append(mine)
        except Locked as error:
            refused.append(error)

    all_at_once(contend)
    assert (len(won), len(refused)) == (1, 7)
    assert current_owner(store) == won[0].owner
    won[0].release()


def test_the_heartbeat_goes_on_and_its_silence_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.records.lock.HEARTBEAT_S", 0.01)
    mine = lock(store)
    mine.acquire()
    wait_for(lambda: newest_lease(store).beat > 2)
    assert not mine.is_lost()

    def broken(*arguments: object) -> Claim:
        raise OSError("storage is away")

    with monkeypatch.context() as patched:
        patched.setattr("sweeps.records.lock.replace_claim", broken)
        patched.setattr("sweeps.records.lock.STALE_AFTER_S", 0.05)
        time.sleep(0.1)
        assert mine.is_lost() == (not store.is_local)  # on a disk this process is seen to live
    wait_for(lambda: not mine.is_lost())  # nobody came meanwhile, so it owns the experiment still
    mine.release()
    assert newest_lease(store).released


def wait_for(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_owner_that_was_taken_for_dead_notices_and_leaves_the_next_one_alone(
    store: Store, short_watch: None
) -> None:
    asleep = elsewhere(store)
    asleep.acquire()
    successor = lock(store)
    successor.acquire()
    claims = files(store)
    asleep.beat()  # as its thread does on waking up
    assert asleep.is_lost()
    asleep.release()
    assert files(store) == claims
    assert (asleep.number, successor.number) == (1, 2)
    assert current_owner(store) == successor.owner
    successor.release()


@pytest.mark.parametrize("offset_s", [-70.0, 70.0])
def test_an_owner_whose_clock_is_70_s_off_is_refused_everywhere(
    store: Store, short_watch: None, monkeypatch: pytest.MonkeyPatch, offset_s: float
) -> None:
    monkeypatch.setattr("sweeps.records.liveness.STALE_AFTER_S", 10.0)  # a busy machine delays heartbeats
    off = (datetime.now(UTC) + timedelta(seconds=offset_s)).isoformat()
    with beating(store, owner_elsewhere(), off), pytest.raises(Locked, match="on far-away"):
        lock(store).acquire()
    assert store.list("lock") == ["owner-000001.json"]


@pytest.mark.parametrize("number", [10**9, 999_999_999_999_999_999])
def test_a_number_that_no_owner_reaches_is_damage_and_not_waited_for(tmp_path: Path, number: int) -> None:
    store = Store(str(tmp_path))
    dead = dataclasses.replace(Owner.this_process(), pid=2**22, pid_started=1)
    store.write(f"lock/owner-{number:06d}.json", lease_bytes(Lease(owner=dead, heartbeat_utc=LONG_AGO)))
    assert current_owner(store) is None
    with pytest.raises(CorruptData, match=r"has a number that no owner reaches; delete it, if nothing runs there"):
        Lock(store, Owner.this_process()).acquire()
    assert [path.name for path in (tmp_path / "lock").iterdir()] == [f"owner-{number:06d}.json"]


def test_owner_999999_is_followed_by_the_next_one(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    dead = dataclasses.replace(Owner.this_process(), pid=2**22, pid_started=1)
    for heartbeat in ("2099-01-01T00:00:00Z", LONG_AGO):
        store.write("lock/owner-999999.json", lease_bytes(Lease(owner=dead, heartbeat_utc=heartbeat)))
        assert current_owner(store) is None
    lock = Lock(store, Owner.this_process())
    lock.acquire()
    assert current_owner(store) == lock.owner
    assert (tmp_path / "lock" / "owner-1000000.json").exists()
    lock.release()
