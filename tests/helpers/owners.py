"""Owners of an experiment for tests of its lock: of this process, and of hosts that this machine cannot see."""

import dataclasses
import uuid

from sweeps.records.claims import newest_claim
from sweeps.records.documents import json_bytes
from sweeps.records.liveness import Lease
from sweeps.records.lock import Lock
from sweeps.records.owner import Owner
from sweeps.records.store import Store

LONG_AGO = "2020-01-01T00:00:00Z"


def lock(store: Store, owner: Owner | None = None) -> Lock:
    return Lock(store, owner or Owner.this_process())


def plant(store: Store, owner: Owner, heartbeat_utc: str, beat: int = 0) -> None:
    """The claim of an owner that did not release it."""
    lease = Lease(owner=owner, heartbeat_utc=heartbeat_utc, beat=beat)
    store.write("lock/owner-000001.json", lease_bytes(lease))


def lease_bytes(lease: Lease) -> bytes:
    """As older versions wrote it too."""
    values = dataclasses.asdict(lease)
    return json_bytes({"schema": "nanochat-sweep/lease/1", **values})


def newest_lease(store: Store) -> Lease:
    claim = newest_claim(store)
    assert claim is not None
    return claim.lease


def owner_elsewhere() -> Owner:
    return dataclasses.replace(Owner.this_process(), host="far-away")


def elsewhere(store: Store) -> Lock:
    """The lock of a process that this machine cannot see."""
    return lock(store, dataclasses.replace(owner_elsewhere(), id=uuid.uuid4().hex))


def files(store: Store) -> dict[str, bytes]:
    return {name: store.read(f"lock/{name}") for name in store.list("lock")}
