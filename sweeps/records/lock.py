"""One owner at a time for an experiment; a dead owner is recognised and replaced.

Two ways to elect, one interface. On a local disk owners are numbered files, `lock/owner-000001.json` and on: who
finds the newest one dead or released creates the next number, and exclusive creation has one winner, so a takeover
cannot race. Nothing is ever deleted there; an owner only rewrites its own file (heartbeat, release), so no process
can damage another's claim, however long it was asleep.

Elsewhere there is no exclusive creation: each bidder puts `lock/<uuid>.json`, waits, and lists. A held lease, or else
the lowest uuid among the living bids, wins; losers delete theirs. The wait covers the time between a winner's look and
its mark, so two bidders always see each other.

A process that finds a lease of another host first watches it: `liveness` says why that takes up to a minute.
"""

import contextlib
import dataclasses
import re
import threading
import time
from datetime import UTC, datetime

from sweeps.records.conditional_puts import check_conditional_puts
from sweeps.records.documents import json_bytes, json_object, utc_now
from sweeps.records.liveness import Lease, LeaseWatch
from sweeps.records.owner import HEARTBEAT_S, STALE_AFTER_S, Owner
from sweeps.records.store import Store
from sweeps.spec.checked import moment, typed
from sweeps.spec.errors import CorruptData, Locked

_NUMBERED = re.compile(r"owner-(\d{6,18})\.json")
_MOST = 10**9
SETTLE_S = 2.0  # how long a bid on object storage waits for its rivals
POLL_S = 0.5  # between two looks at a lease that is watched


_watch = LeaseWatch()  # of this process' questions who the owner is, which often come again and again


def current_owner(store: Store) -> Owner | None:
    """The living owner, if there is one. Reads only, and does not wait.

    At the first look at an owner of another host it is a guess by the clocks of both; later looks know.
    """
    living = [lease for lease in _held(store) if _is_believed_alive(lease)]
    return min(living, key=_rank).owner if living else None


def watched_owner(store: Store) -> Owner | None:
    """As `current_owner`, but certain: where only watching can tell, it takes up to a minute."""
    while any(_watch.lives(lease) is None for lease in _held(store)):
        time.sleep(POLL_S)
    return current_owner(store)


def _held(store: Store) -> list[Lease]:
    """The lease that counts on a disk; elsewhere those of all that have won an election."""
    if store.is_local:
        _, lease = _newest(store)
        return [lease] if lease else []
    return [lease for lease in _leases(store).values() if lease.held]


def _is_believed_alive(lease: Lease) -> bool:
    lives = _watch.lives(lease)
    if lives is not None:
        return lives
    silent_s = (datetime.now(UTC) - moment(lease.heartbeat_utc)).total_seconds()
    return abs(silent_s) <= STALE_AFTER_S


class Lock:
    """Holds an experiment for `owner` from `acquire` until `release`, with a heartbeat in between."""

    def __init__(self, store: Store, owner: Owner, *, settle_s: float | None = None) -> None:
        self.owner = owner
        self._store, self._settle_s = store, SETTLE_S if settle_s is None else settle_s
        self._path = ""
        self._stop = threading.Event()
        self._pulse: threading.Thread | None = None
        self._last_heartbeat, self._num_beats = 0.0, 0
        self._is_replaced = False

    def acquire(self) -> None:
        """Raises Locked, naming the living owner and what to do. Where an owner on another host left its lease, that
        takes up to a minute."""
        if self._store.is_local:
            self._path, self._last_heartbeat = _claim_next_number(self._store, self.owner)
        else:
            check_conditional_puts(self._store)
            self._path, self._last_heartbeat = _win_election(self._store, self.owner, self._settle_s)
        self._pulse = threading.Thread(target=self._beat, name="experiment-heartbeat", daemon=True)
        self._pulse.start()

    def release(self) -> None:
        """Gives the experiment up. Does nothing if it is not held."""
        if self._pulse is None:
            return
        self.fall_silent()
        if self._is_replaced:
            return
        if self._store.is_local:
            self._store.write(self._path, _lease_bytes(_fresh(self.owner, released=True)))
        else:
            self._store.delete(self._path)

    def fall_silent(self) -> None:
        """Ends the heartbeat and releases nothing: on this machine the claim counts as long as the process lives."""
        if self._pulse is not None:
            self._stop.set()
            self._pulse.join()
            self._pulse = None

    def is_lost(self) -> bool:
        """Whether another owner has come, or can come at any moment: no heartbeat has reached storage for too long.

        On a disk the second is no reason: processes of this machine see that this one lives.
        """
        if self._pulse is None:
            return False
        is_silent = time.monotonic() - self._last_heartbeat > STALE_AFTER_S
        return self._is_replaced or (is_silent and not self._store.is_local)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # an outage shows in is_lost, not as a dead thread
                if not self._is_still_mine():
                    self._is_replaced = True  # this process was asleep; the new owner believes it dead
                    return
                begin_s = time.monotonic()  # a watcher can see the lease before this process knows that it is there
                self._num_beats += 1
                self._store.write(self._path, _lease_bytes(_fresh(self.owner, beat=self._num_beats)))
                self._last_heartbeat = begin_s

    def _is_still_mine(self) -> bool:
        """Whether no other has taken over: a newer number on a disk; elsewhere takers delete the dead's leases."""
        if self._store.is_local:
            return _newest_number(self._store) <= _number_of(self._path.removeprefix("lock/"))
        return self._store.exists(self._path)


def _claim_next_number(store: Store, owner: Owner) -> tuple[str, float]:
    """The claim's path, and when it was written at the earliest, by the clock since boot."""
    watch = LeaseWatch()
    while True:
        number, lease = _newest(store)
        if number >= _MOST:  # the next name would not be found again
            where = store.uri_of(_path_of(number))
            raise CorruptData(f"{where} has a number that no owner reaches; delete it, if nothing runs there")
        lives = watch.lives(lease) if lease else False
        if lease and lives:
            raise _locked(store, lease.owner)
        if lives is None:
            time.sleep(POLL_S)
            continue
        path, begin_s = _path_of(number + 1), time.monotonic()
        with contextlib.suppress(FileExistsError):  # another process was faster: look again, it may live
            store.create(path, _lease_bytes(_fresh(owner)))
            return path, begin_s


def _win_election(store: Store, owner: Owner, settle_s: float) -> tuple[str, float]:
    """As `_claim_next_number`, where creation is not exclusive."""
    watch = LeaseWatch()
    _wait_until_known(store, watch)
    mine = f"lock/{owner.id}.json"
    bid = _fresh(owner, held=False)
    store.write(mine, _lease_bytes(bid))
    try:
        time.sleep(settle_s)
        others = {path: lease for path, lease in _leases(store).items() if path != mine}
        dead = [path for path, lease in others.items() if watch.lives(lease) is False]
        for path, rival in others.items():  # one that is seen for the first time has just come
            if path not in dead and (rival.held or _rank(rival) < _rank(bid)):
                raise _locked(store, rival.owner)
        begin_s = time.monotonic()
        store.write(mine, _lease_bytes(_fresh(owner)))
    except BaseException:
        store.delete(mine)
        raise
    for path in dead:
        store.delete(path)
    return mine, begin_s


def _wait_until_known(store: Store, watch: LeaseWatch) -> None:
    """Returns once it is known of each owner on another host whether it lives. Raises Locked if one does."""
    while True:
        lives = [(lease, watch.lives(lease)) for lease in _leases(store).values()]
        for lease, is_alive in lives:
            if is_alive and lease.held:
                raise _locked(store, lease.owner)
        if all(is_alive is not None for _, is_alive in lives):
            return
        time.sleep(POLL_S)


def _rank(lease: Lease) -> str:
    return lease.owner.id


def _newest(store: Store) -> tuple[int, Lease | None]:
    number = _newest_number(store)
    return number, _read(store, _path_of(number)) if number else None


def _newest_number(store: Store) -> int:
    return max(map(_number_of, store.list("lock")), default=0)


def _number_of(name: str) -> int:
    """An owner's number by the name of its file; 0 for any other file."""
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match else 0


def _path_of(number: int) -> str:
    return f"lock/owner-{number:06d}.json"


def _leases(store: Store) -> dict[str, Lease]:
    leases: dict[str, Lease] = {}
    for name in store.list("lock"):
        with contextlib.suppress(FileNotFoundError):  # withdrawn since it was listed
            leases[f"lock/{name}"] = _read(store, f"lock/{name}")
    return leases


def _read(store: Store, path: str) -> Lease:
    where = store.uri_of(path)
    try:
        return typed(Lease, json_object(store.read(path), where), where)
    except CorruptData as problem:
        raise CorruptData(f"{problem}; or delete it, if nothing runs there") from None


def _fresh(owner: Owner, *, beat: int = 0, held: bool = True, released: bool = False) -> Lease:
    return Lease(owner=owner, heartbeat_utc=utc_now(), beat=beat, held=held, released=released)


def _lease_bytes(lease: Lease) -> bytes:
    return json_bytes({"schema": "nanochat-sweep/lease/1", **dataclasses.asdict(lease)})


def _locked(store: Store, owner: Owner) -> Locked:
    return Locked(
        f"{store.uri} is in use by process {owner.pid} on {owner.host} since {owner.started_utc} ({owner.command}); "
        f"wait until it ends, or interrupt it there (kill -INT {owner.pid}), then try again"
    )
