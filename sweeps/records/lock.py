"""One owner at a time for an experiment; a dead owner is recognised and replaced.

Owners are numbered files (`claims.py`). Who finds the newest one dead or released creates the next number, which has
one winner. In a bucket it first ends the dead one's lease, by replacing the very version that it has watched: an owner
that was only slow has then either written a newer one, and keeps the experiment, or finds its lease ended and stops.
On a disk nothing is replaced by condition; there an owner looks for a newer number before each heartbeat.

A process that finds a lease of another host first watches it: `liveness` says why that takes up to a minute.
"""

import contextlib
import threading
import time
from datetime import UTC, datetime

from sweeps.records.claims import (
    Claim,
    create_claim,
    fresh,
    leases_of_older_versions,
    newest_claim,
    newest_number,
    read_claim,
    replace_claim,
)
from sweeps.records.conditional_puts import check_conditional_puts
from sweeps.records.liveness import Lease, LeaseWatch
from sweeps.records.object_storage import Outdated
from sweeps.records.owner import HEARTBEAT_S, STALE_AFTER_S, Owner
from sweeps.records.store import Store
from sweeps.spec.checked import moment
from sweeps.spec.errors import Locked

POLL_S = 0.5  # between two looks at a lease that is watched


_watch = LeaseWatch()  # of this process' questions who the owner is, which often come again and again


def current_owner(store: Store) -> Owner | None:
    """The living owner, if there is one. Reads only, and does not wait.

    At the first look at an owner of another host it is a guess by the clocks of both; later looks know.
    """
    return next((lease.owner for lease in _held(store) if _is_believed_alive(lease)), None)


def watched_owner(store: Store) -> Owner | None:
    """As `current_owner`, but certain: where only watching can tell, it takes up to a minute."""
    while any(_watch.lives(lease) is None for lease in _held(store)):
        time.sleep(POLL_S)
    return current_owner(store)


def _held(store: Store) -> list[Lease]:
    newest = newest_claim(store)
    older = leases_of_older_versions(store).values()
    return [*([newest.lease] if newest else []), *(lease for lease in older if lease.held)]


def _is_believed_alive(lease: Lease) -> bool:
    lives = _watch.lives(lease)
    if lives is not None:
        return lives
    silent_s = (datetime.now(UTC) - moment(lease.heartbeat_utc)).total_seconds()
    return abs(silent_s) <= STALE_AFTER_S


class Lock:
    """Holds an experiment for `owner` from `acquire` until `release`, with a heartbeat in between."""

    def __init__(self, store: Store, owner: Owner) -> None:
        self.owner = owner
        self._store = store
        self._claim: Claim | None = None
        self._stop = threading.Event()
        self._pulse: threading.Thread | None = None
        self._last_heartbeat_s, self._num_beats = 0.0, 0
        self._is_replaced = self._is_released = False
        self._writing = threading.Lock()  # the heartbeat's thread is not the only one

    @property
    def number(self) -> int:
        """How many owners the experiment has had, with this one; 0 before `acquire`. It only grows."""
        return self._claim.number if self._claim else 0

    def acquire(self) -> None:
        """Raises Locked, naming the living owner and what to do. Where an owner on another host left its lease, that
        takes up to a minute. Raises UsageError for a bucket whose server lacks conditional puts."""
        if not self._store.is_local:
            check_conditional_puts(self._store)
        self._claim, self._last_heartbeat_s = _claim_next_number(self._store, self.owner)
        if _since_boot_s() - self._last_heartbeat_s > HEARTBEAT_S:  # asleep since then: others can think it dead
            self.beat()
            if self._is_replaced:
                raise _locked(self._store, current_owner(self._store) or self.owner)
        self._pulse = threading.Thread(target=self._beat_on, name="experiment-heartbeat", daemon=True)
        self._pulse.start()

    def release(self) -> None:
        """Gives the experiment up. Does nothing if it is not held. After an OSError it can be tried again."""
        if self._claim is None or self._is_released:
            return
        self.fall_silent()
        if not self._is_replaced:
            self._write(fresh(self.owner, released=True))
        self._is_released = True

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
        is_silent = _since_boot_s() - self._last_heartbeat_s > STALE_AFTER_S
        return self._is_replaced or (is_silent and not self._store.is_local)

    def beat(self) -> None:
        """One heartbeat. Raises OSError while storage fails."""
        begin_s = _since_boot_s()  # a watcher can see the lease before this process knows that it is there
        with self._writing:
            self._num_beats += 1
            self._write(fresh(self.owner, beat=self._num_beats))
        if not self._is_replaced:
            self._last_heartbeat_s = begin_s

    @property
    def is_replaced(self) -> bool:
        """Whether another owner has come."""
        return self._is_replaced

    def _beat_on(self) -> None:
        while not self._is_replaced and not self._stop.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # an outage shows in is_lost, not as a dead thread
                self.beat()

    def _write(self, lease: Lease) -> None:
        """Replaces the own lease, or notes that another owner has come."""
        assert self._claim is not None
        try:
            if self._store.is_local and newest_number(self._store) > self._claim.number:
                self._is_replaced = True
                return
            self._claim = replace_claim(self._store, self._claim, lease)
        except Outdated:
            mine = self._as_stored()
            if mine is None:
                self._is_replaced = True
                return
            self._claim = replace_claim(self._store, mine, lease)

    def _as_stored(self) -> Claim | None:
        """The own claim, if an earlier write of this process changed it and only the answer was lost."""
        assert self._claim is not None
        try:
            found = read_claim(self._store, self._claim.number)
        except FileNotFoundError:
            return None
        return found if found.lease.owner.id == self.owner.id and found.lease.ended_by is None else None


def _claim_next_number(store: Store, owner: Owner) -> tuple[Claim, float]:
    """The claim, and when it was written at the earliest, by the clock since boot."""
    watch = LeaseWatch()
    while True:
        newest = newest_claim(store)
        older = leases_of_older_versions(store)
        leases = [*([newest.lease] if newest else []), *older.values()]
        lives = [watch.lives(lease) for lease in leases]
        if True in lives:
            raise _locked(store, leases[lives.index(True)].owner)
        if None in lives:
            time.sleep(POLL_S)
            continue
        if newest is not None and not _is_ended(store, newest, owner):
            continue
        begin_s = _since_boot_s()
        claim = create_claim(store, newest.number + 1 if newest else 1, owner)
        if claim is None:  # another process was faster: look again, it may live
            continue
        for path in older:
            store.delete(path)
        return claim, begin_s


def _is_ended(store: Store, claim: Claim, owner: Owner) -> bool:
    """Whether the lease of a dead owner is over. In a bucket it is ended here; False if its owner was faster."""
    if claim.lease.released or store.is_local:
        return True
    lease = fresh(claim.lease.owner, beat=claim.lease.beat, released=True, ended_by=owner.id)
    try:
        replace_claim(store, claim, lease)
    except Outdated:
        return False
    return True


def _since_boot_s() -> float:
    """Sleep of the machine counts: a watcher elsewhere was awake."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _locked(store: Store, owner: Owner) -> Locked:
    return Locked(
        f"{store.uri} is in use by process {owner.pid} on {owner.host} since {owner.started_utc} ({owner.command}); "
        f"wait until it ends, or interrupt it there (kill -INT {owner.pid}), then try again"
    )
