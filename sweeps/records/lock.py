"""One owner at a time for an experiment; a dead owner is recognised and replaced.

Two ways to elect, one interface. On a local disk owners are numbered files, `lock/owner-000001.json` and on: whoever
finds the newest one dead or released creates the next number, and exclusive creation has one winner, so a takeover
cannot race. Nothing is ever deleted there; an owner only rewrites its own file (heartbeat, release), hence no process
can damage another's claim, however long it was asleep.

Elsewhere there is no exclusive creation: each bidder puts `lock/<uuid>.json`, waits, and lists. A held lease, or else
the lowest (time, uuid) among the living bids, wins; losers delete theirs. The wait covers the time between a winner's
look and its mark, so two bidders always see each other.
"""

import contextlib
import dataclasses
import re
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sweeps.records.documents import json_bytes, json_object, utc_now
from sweeps.records.owner import HEARTBEAT_S, STALE_AFTER_S, Owner, is_alive
from sweeps.records.store import Store
from sweeps.spec.checked import moment, typed
from sweeps.spec.errors import CorruptData, Locked

_NUMBERED = re.compile(r"owner-(\d{6,18})\.json")
_MOST_CLOCKS_DIFFER = timedelta(days=1)
SETTLE_S = 2.0  # how long a bid on object storage waits for its rivals


@dataclass(frozen=True, kw_only=True)
class Lease:
    """An owner's claim as it stands in storage."""

    owner: Owner
    heartbeat_utc: str
    held: bool = True  # False: still bidding
    released: bool = False

    def is_live(self) -> bool:
        """Whether the claim still counts."""
        return not self.released and is_alive(self.owner, self.heartbeat_utc, datetime.now(UTC))


def current_owner(store: Store) -> Owner | None:
    """The living owner, if there is one. Reads only."""
    if store.is_local:
        _, lease = _newest(store)
        return lease.owner if lease and lease.is_live() else None
    held = [lease for lease in _leases(store).values() if lease.held and lease.is_live()]
    return min(held, key=_rank).owner if held else None


class Lock:
    """Holds an experiment for `owner` from `acquire` until `release`, with a heartbeat in between."""

    def __init__(self, store: Store, owner: Owner, *, settle_s: float | None = None) -> None:
        self.owner = owner
        self._store, self._settle_s = store, SETTLE_S if settle_s is None else settle_s
        self._path = ""
        self._stop = threading.Event()
        self._pulse: threading.Thread | None = None
        self._last_heartbeat = 0.0
        self._is_replaced = False

    def acquire(self) -> None:
        """Raises Locked, naming the living owner and what to do."""
        if self._store.is_local:
            self._path = _claim_next_number(self._store, self.owner)
        else:
            self._path = _win_election(self._store, self.owner, self._settle_s)
        self._last_heartbeat = time.monotonic()
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
        """Whether another owner has come, or may come at any moment: no heartbeat has reached storage for too long.

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
                    self._is_replaced = True  # this process was asleep; whoever came believes it dead
                    return
                self._store.write(self._path, _lease_bytes(_fresh(self.owner)))
                self._last_heartbeat = time.monotonic()

    def _is_still_mine(self) -> bool:
        """Whether nobody has taken over: a newer number on a disk; elsewhere takers delete the dead's leases."""
        if self._store.is_local:
            return _newest_number(self._store) <= _number_of(self._path.removeprefix("lock/"))
        return self._store.exists(self._path)


def _claim_next_number(store: Store, owner: Owner) -> str:
    while True:
        number, lease = _newest(store)
        if lease and lease.is_live():
            raise _locked(store, lease.owner)
        path = _path_of(number + 1)
        with contextlib.suppress(FileExistsError):  # somebody was faster: look again, it may live
            store.create(path, _lease_bytes(_fresh(owner)))
            return path


def _win_election(store: Store, owner: Owner, settle_s: float) -> str:
    mine = f"lock/{owner.id}.json"
    store.write(mine, _lease_bytes(_fresh(owner, held=False)))
    try:
        time.sleep(settle_s)
        leases = _leases(store)
        rivals = [lease for path, lease in leases.items() if path != mine and lease.is_live()]
        for rival in rivals:
            if rival.held or _rank(rival) < _rank(leases[mine]):
                raise _locked(store, rival.owner)
        store.write(mine, _lease_bytes(_fresh(owner)))
    except BaseException:
        store.delete(mine)
        raise
    for path, lease in leases.items():
        if path != mine and not lease.is_live():
            store.delete(path)
    return mine


def _rank(lease: Lease) -> tuple[str, str]:
    return (lease.owner.started_utc, lease.owner.id)


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
        lease = typed(Lease, json_object(store.read(path), where), where)
        if moment(lease.heartbeat_utc) > datetime.now(UTC) + _MOST_CLOCKS_DIFFER:
            raise CorruptData(f"{where} is damaged: its heartbeat is of {lease.heartbeat_utc}")
    except CorruptData as problem:
        raise CorruptData(f"{problem}; or delete it, if nothing runs there") from None
    return lease


def _fresh(owner: Owner, *, held: bool = True, released: bool = False) -> Lease:
    return Lease(owner=owner, heartbeat_utc=utc_now(), held=held, released=released)


def _lease_bytes(lease: Lease) -> bytes:
    return json_bytes({"schema": "nanochat-sweep/lease/1", **dataclasses.asdict(lease)})


def _locked(store: Store, owner: Owner) -> Locked:
    return Locked(
        f"{store.uri} is in use by process {owner.pid} on {owner.host} since {owner.started_utc} ({owner.command}); "
        f"wait until it ends, or interrupt it there (kill -INT {owner.pid}), then try again"
    )
