"""The numbered files `lock/owner-000001.json` and on, by which owners claim an experiment. None is ever deleted.

Creating the next number is exclusive on a disk and in a bucket, so it has one winner. In a bucket a lease is only ever
replaced by who knows its present version: an owner's heartbeat, or a launch that ends the lease of a dead owner.
Of a heartbeat and a takeover at the same moment one fails. A lease has a new nonce each time it is written, because
versions are hashes of contents.
"""

import contextlib
import dataclasses
import re
import secrets
from dataclasses import dataclass

from sweeps.records.documents import json_bytes, json_object, utc_now
from sweeps.records.liveness import Lease
from sweeps.records.object_storage import Version
from sweeps.records.owner import Owner
from sweeps.records.store import Store
from sweeps.spec.checked import typed
from sweeps.spec.errors import CorruptData

_NUMBERED = re.compile(r"owner-(\d{6,18})\.json")
_MOST = 10**9


@dataclass(frozen=True)
class Claim:
    """An owner's number, its lease as it was read or written last, and of which version that is; a disk has none."""

    number: int
    lease: Lease
    version: Version | None

    @property
    def path(self) -> str:
        """Where the lease is, below the experiment."""
        return path_of(self.number)


def newest_claim(store: Store) -> Claim | None:
    """The claim that counts; None before the first. Raises CorruptData if it cannot be read."""
    number = newest_number(store)
    return read_claim(store, number) if number else None


def newest_number(store: Store) -> int:
    """How many owners there were; 0 before the first."""
    return max(map(_number_of, store.list("lock")), default=0)


def read_claim(store: Store, number: int) -> Claim:
    """One claim as it is stored. Raises FileNotFoundError and CorruptData."""
    path, version = path_of(number), None
    if store.is_local:
        data = store.read(path)
    else:
        data, version = store.bucket.read_version(path)
    return Claim(number, _lease(store, path, data), version)


def create_claim(store: Store, number: int, owner: Owner) -> Claim | None:
    """The owner's claim under a new number; None if another process has that number. Raises OSError."""
    if number > _MOST:  # the next name would not be found again
        where = store.uri_of(path_of(number - 1))
        raise CorruptData(f"{where} has a number that no owner reaches; delete it, if nothing runs there")
    lease = fresh(owner)
    try:
        if store.is_local:
            store.create(path_of(number), _bytes(lease))
            return Claim(number, lease, None)
        return Claim(number, lease, store.bucket.create(path_of(number), _bytes(lease)))
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):  # an answer can be lost after the effect
            found = read_claim(store, number)
            if found.lease.owner.id == owner.id:
                return found
        if isinstance(error, FileExistsError):
            return None
        raise


def replace_claim(store: Store, claim: Claim, lease: Lease) -> Claim:
    """The claim with another lease. Raises OSError; in a bucket Outdated if the lease has changed since it was read."""
    if claim.version is None:
        store.write(claim.path, _bytes(lease))
        return Claim(claim.number, lease, None)
    return Claim(claim.number, lease, store.bucket.replace(claim.path, _bytes(lease), claim.version))


def fresh(owner: Owner, *, beat: int = 0, released: bool = False, ended_by: str | None = None) -> Lease:
    """A lease that is written now."""
    nonce = secrets.token_hex(8)
    return Lease(owner=owner, heartbeat_utc=utc_now(), beat=beat, released=released, ended_by=ended_by, nonce=nonce)


def leases_of_older_versions(store: Store) -> dict[str, Lease]:
    """In a bucket: what launches of versions without numbers there hold, or want, by the path of each lease."""
    leases: dict[str, Lease] = {}
    for name in [] if store.is_local else store.list("lock"):
        if name.endswith(".json") and not _number_of(name):
            with contextlib.suppress(FileNotFoundError):  # withdrawn since it was listed
                leases[f"lock/{name}"] = _lease(store, f"lock/{name}", store.read(f"lock/{name}"))
    return leases


def path_of(number: int) -> str:
    """Where the claim of that number is, below the experiment."""
    return f"lock/owner-{number:06d}.json"


def _number_of(name: str) -> int:
    """An owner's number by the name of its file; 0 for any other file."""
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match else 0


def _lease(store: Store, path: str, data: bytes) -> Lease:
    where = store.uri_of(path)
    try:
        return typed(Lease, json_object(data, where), where)
    except CorruptData as problem:
        raise CorruptData(f"{problem}; or delete it, if nothing runs there") from None


def _bytes(lease: Lease) -> bytes:
    return json_bytes({"schema": "nanochat-sweep/lease/1", **dataclasses.asdict(lease)})
