"""Who holds an experiment, and whether that process still lives.

On the owner's own machine the kernel answers at once: the process must exist, be no zombie, and have been started at
the moment that was noted, so that a reused pid is not mistaken for the owner. Same machine means same host name, same
boot and same pid namespace (two containers may share the first two). From anywhere else `liveness` tells.
"""

import os
import socket
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from sweeps.records.documents import utc_now

HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process that runs an experiment, identified beyond any reuse of its pid or host name."""

    id: str
    host: str
    pid: int
    boot_id: str  # of the running kernel; "" if there is none to read
    pid_namespace: str
    pid_started: int | None  # clock ticks after boot
    started_utc: str
    command: str

    @classmethod
    def this_process(cls) -> "Owner":
        """An owner for the calling process; each call gives another id."""
        return cls(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
            pid_started=process_started(os.getpid()),
            started_utc=utc_now(),
            command=" ".join(Path(a).name if i == 0 else a for i, a in enumerate(sys.argv)),
        )


def lives_here(owner: Owner) -> bool | None:
    """Whether the owner's process runs; None where this machine cannot see it."""
    if not _sees(owner):
        return None
    started = process_started(owner.pid)
    return started is not None and started == owner.pid_started


def _sees(owner: Owner) -> bool:
    """Whether the owner's pid means the same process here as it did there."""
    here = (socket.gethostname(), _boot_id(), _pid_namespace())
    return bool(owner.boot_id) and here == (owner.host, owner.boot_id, owner.pid_namespace)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def process_started(pid: int) -> int | None:
    """When a living process was started, in clock ticks after boot; None for a dead one or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()  # the name in parentheses can hold anything
    return None if state in ("Z", "X", "x") else int(rest[18])
