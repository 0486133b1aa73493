"""In a bucket the store decides who owns an experiment, wherever a process stalls, dies, or loses an answer."""

import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from sweeps.records.documents import utc_now
from sweeps.records.liveness import Lease
from sweeps.records.lock import current_owner
from sweeps.records.object_storage import ObjectStorage, Version
from sweeps.records.store import Store
from sweeps.spec.errors import Locked
from tests.helpers.buckets import ROOT, bucket_in_memory
from tests.helpers.owners import LONG_AGO, elsewhere, files, lease_bytes, lock, newest_lease, owner_elsewhere, plant


@pytest.fixture
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners elsewhere are dead after 0.4 s of silence instead of a minute."""
    monkeypatch.setattr("sweeps.records.liveness.STALE_AFTER_S", 0.4)
    monkeypatch.setattr("sweeps.records.lock.POLL_S", 0.02)


def interrupted_by(monkeypatch: pytest.MonkeyPatch, method: str, act: Callable[[], None]) -> None:
    """`act` happens when a bucket is asked for `method` the next time, right before that takes effect."""
    before = getattr(ObjectStorage, method)
    pending = [act]

    def late(self: ObjectStorage, rel: str, *arguments: Any) -> Version:
        if pending and rel.startswith("lock/") and threading.current_thread() is threading.main_thread():
            pending.pop()()
        return before(self, rel, *arguments)

    monkeypatch.setattr(ObjectStorage, method, late)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Store:
    bucket_in_memory(monkeypatch)
    return Store(f"{ROOT}/exp")


@pytest.mark.parametrize("method", ["replace", "create"])
def test_a_stall_between_look_and_mark_makes_no_second_owner(
    bucket: Store, short_watch: None, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Two want the experiment of a dead owner; one has decided to take it, and sleeps while the other does."""
    plant(bucket, owner_elsewhere(), LONG_AGO)
    slow, fast = lock(bucket), lock(bucket)
    interrupted_by(monkeypatch, method, fast.acquire)
    with pytest.raises(Locked):
        slow.acquire()
    assert current_owner(bucket) == fast.owner
    fast.beat()
    assert not fast.is_lost()
    fast.release()


def test_an_owner_whose_heartbeat_comes_while_it_is_replaced_keeps_the_experiment(
    bucket: Store, short_watch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, rival = elsewhere(bucket), lock(bucket)
    slow.acquire()
    interrupted_by(monkeypatch, "replace", slow.beat)  # the rival's replacement of the lease comes after it
    with pytest.raises(Locked, match="far-away"):
        rival.acquire()
    slow.beat()
    assert not slow.is_lost()
    slow.release()


def test_a_heartbeat_that_arrives_after_a_takeover_makes_no_lease(
    bucket: Store, short_watch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, successor = elsewhere(bucket), lock(bucket)
    frozen.acquire()
    claims: dict[str, bytes] = {}

    def taken_over() -> None:
        successor.acquire()
        claims.update(files(bucket))

    interrupted_by(monkeypatch, "replace", taken_over)  # the heartbeat was on its way for a minute
    frozen.beat()
    assert frozen.is_lost()
    assert not successor.is_lost()
    assert files(bucket) == claims
    successor.release()


def test_an_owner_that_sleeps_right_after_its_claim_is_no_owner_when_it_wakes(
    bucket: Store, short_watch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    successor = lock(bucket)
    monkeypatch.setattr("sweeps.records.lock.HEARTBEAT_S", 0.3)
    create, pending = ObjectStorage.create, [True]

    def slow(self: ObjectStorage, rel: str, data: bytes) -> Version:
        version = create(self, rel, data)
        if pending and rel.startswith("lock/"):
            pending.pop()
            successor.acquire()
        return version

    monkeypatch.setattr(ObjectStorage, "create", slow)
    with pytest.raises(Locked):
        elsewhere(bucket).acquire()
    assert not successor.is_lost()
    successor.release()


def test_lost_answers_neither_lock_an_owner_out_nor_end_it(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = [True, True]

    def losing(method: str) -> None:
        before = getattr(ObjectStorage, method)

        def with_effect(self: ObjectStorage, rel: str, *arguments: Any) -> Version:
            version = before(self, rel, *arguments)
            if lost and rel.startswith("lock/"):
                lost.pop()
                raise OSError(5, "connection closed before message completed")
            return version

        monkeypatch.setattr(ObjectStorage, method, with_effect)

    losing("create")
    losing("replace")
    mine = lock(bucket)
    mine.acquire()
    with pytest.raises(OSError, match="connection closed"):
        mine.beat()
    mine.beat()
    assert not mine.is_lost()
    assert (mine.number, newest_lease(bucket).beat) == (1, 2)
    mine.release()


def test_wherever_a_launch_is_killed_the_next_one_gets_the_bucket(
    bucket: Store, short_watch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill is before or after one of its requests that change something."""

    class Killed(BaseException):
        pass

    methods = {name: getattr(ObjectStorage, name) for name in ("create", "replace", "delete")}
    left = [0]

    def dying(name: str) -> Callable[..., Any]:
        def step(self: ObjectStorage, *arguments: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            done = methods[name](self, *arguments)
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return done

        return step

    num_kills = 0
    for at in count():
        left[0] = at
        with monkeypatch.context() as patched:
            for name in methods:
                patched.setattr(ObjectStorage, name, dying(name))
            victim = elsewhere(bucket)
            try:
                victim.acquire()
                victim.release()
            except Killed:
                num_kills += 1
                victim.fall_silent()
                victim = None
        successor = lock(bucket)
        successor.acquire()
        assert current_owner(bucket) == successor.owner
        successor.release()
        if victim is not None:
            break
    assert num_kills > 6


def test_leases_of_older_versions_count_and_go_when_they_are_dead(bucket: Store, short_watch: None) -> None:
    old = owner_elsewhere()
    bucket.write(f"lock/{old.id}.json", lease_bytes(Lease(owner=old, heartbeat_utc=utc_now())))
    assert current_owner(bucket) == old
    mine = lock(bucket)
    mine.acquire()  # the old one is silent
    assert bucket.list("lock") == ["owner-000001.json"]
    mine.release()
