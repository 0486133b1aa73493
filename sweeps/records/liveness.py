"""Whether the owner of a lease lives. No clock of another host is asked, and no clock that can be set.

On the owner's own machine the kernel answers. From anywhere else an owner lives while its lease changes: a watcher
notes, by its own clock since boot, when it last saw a change. An owner whose lease stays the same for STALE_AFTER_S is
dead. So the answer takes time: up to a heartbeat if the owner lives, a minute if it is dead.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from sweeps.records.owner import STALE_AFTER_S, Owner, lives_here


@dataclass(frozen=True, kw_only=True)
class Lease:
    """An owner's claim as it is in storage."""

    owner: Owner
    heartbeat_utc: str  # for people
    beat: int = 0  # counts heartbeats; older versions wrote none, and only the time changed
    held: bool = True  # False: still bidding, as older versions did in buckets
    released: bool = False
    ended_by: str | None = None  # the id of the owner that found this one dead
    nonce: str = ""  # differs each time the lease is written


@dataclass
class _Seen:
    lease: Lease
    since_s: float
    has_changed: bool = False


class LeaseWatch:
    """Looks at leases again and again."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._seen: dict[str, _Seen] = {}

    def lives(self, lease: Lease) -> bool | None:
        """True if the owner lives, False if it has released or is dead, None as long as only more looks can tell."""
        if lease.released:
            return False
        here = lives_here(lease.owner)
        return here if here is not None else self._changes(lease)

    def _changes(self, lease: Lease) -> bool | None:
        now_s = self._clock_s()
        seen = self._seen.get(lease.owner.id)
        if seen is None or seen.lease != lease:
            self._seen[lease.owner.id] = _Seen(lease, now_s, has_changed=seen is not None)
            return True if seen is not None else None
        if now_s - seen.since_s > STALE_AFTER_S:
            return False
        return True if seen.has_changed else None
