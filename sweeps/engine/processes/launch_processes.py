"""All processes of one launch carry its mark in their environment, so what outlives the launcher is found and ended.

Ray's daemons die with the launcher, but its workers train on for seconds and its agents stay for half a minute after a
SIGKILL; meanwhile they hold GPUs and could still write into a trial's folder. Two measures, both by mark and never by
name: a watchdog process ends them as soon as the launcher is gone, and a restore, holding the experiment's lock,
ends whatever is left of earlier launches of that very folder on this host before it starts an attempt.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sweeps.engine.processes.signals import signal_if

MARK_VARIABLE = "NANOCHAT_SWEEP_FAMILY"
LEG_VARIABLE = "NANOCHAT_SWEEP_LEG"  # of each rank, and of what it starts


def mark_of(experiment_uri: str, owner_id: str) -> str:
    """The mark of one launch: which folder, which owner."""
    return f"{_folder_mark(experiment_uri)}.{owner_id[:16]}"


def own_mark() -> str:
    """The mark of the launch that the calling process belongs to; "" outside of one."""
    return os.environ.get(MARK_VARIABLE, "")


def members(mark: str) -> list[int]:
    """The living processes of a launch on this host, except the caller."""
    return [pid for pid in _pids() if is_member(pid, mark)]


def is_member(pid: int, mark: str) -> bool:
    """Whether a process belongs to the launch with this mark."""
    return bool(mark) and _mark(pid) == mark


def leg_mark(experiment_uri: str, trial: str) -> str:
    """The mark of a trial's ranks and of what they start."""
    return f"{_folder_mark(experiment_uri)}/{trial}"


def is_of_leg(pid: int, mark: str) -> bool:
    """True if a process is a rank of the leg with this mark, or was started by one."""
    return leg_of(pid) == mark


def leg_of(pid: int) -> str | None:
    """The mark of the leg that a process belongs to; None for any other process."""
    return _mark(pid, LEG_VARIABLE)


def leftovers(experiment_uri: str, own_mark: str) -> list[int]:
    """Processes of other launches of the experiment. All of them are left over if the caller holds its lock."""
    return [pid for pid in _pids() if _is_left_over(pid, experiment_uri, own_mark)]


def end_leftovers(experiment_uri: str, own_mark: str) -> bool:
    """Kills them; the caller holds the experiment's lock. False if some would not go in time."""
    return end(lambda pid: _is_left_over(pid, experiment_uri, own_mark))


def _is_left_over(pid: int, experiment_uri: str, own_mark: str) -> bool:
    seen = _mark(pid)
    return seen is not None and seen.startswith(f"{_folder_mark(experiment_uri)}.") and seen != own_mark


def is_marked(pid: int) -> bool:
    """Whether a process belongs to any launch of this tool."""
    return _mark(pid) is not None


def is_related(pid: int, mark: str) -> bool:
    """Whether a process belongs to a launch of the same experiment as `mark`."""
    folder = mark.partition(".")[0]
    return bool(folder) and (_mark(pid) or "").partition(".")[0] == folder


def end(is_meant: Callable[[int], bool], timeout_s: float = 10.0) -> bool:
    """Kills every process that is meant until there is none. False if some would not go in time."""
    deadline = time.monotonic() + timeout_s
    while left := [pid for pid in _pids() if is_meant(pid)]:
        if time.monotonic() > deadline:
            return False
        for pid in left:
            signal_if(pid, signal.SIGKILL, is_meant)
        time.sleep(0.05)
    return True


def start_watchdog(mark: str, *folders: Path) -> "subprocess.Popen[bytes]":
    """A process that ends the launch and removes its `folders` once this process is gone, however it goes.

    Close its stdin to end it.
    """
    environment = {k: v for k, v in os.environ.items() if k != MARK_VARIABLE}
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps.engine.processes.launch_processes", mark, *map(str, folders)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )


def _folder_mark(experiment_uri: str) -> str:
    return hashlib.sha256(experiment_uri.encode()).hexdigest()[:16]


def _pids() -> list[int]:
    """All processes of this host that can be seen, except the caller."""
    entries = os.listdir("/proc") if os.path.isdir("/proc") else []
    return [int(entry) for entry in entries if entry.isdigit() and int(entry) != os.getpid()]


def _mark(pid: int, variable: str = MARK_VARIABLE) -> str | None:
    """The mark in a living process's environment; None too for other users' processes and for the dead."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    prefix = f"{variable}=".encode()
    found = next((item for item in environment.split(b"\0") if item.startswith(prefix)), None)
    return found[len(prefix) :].decode(errors="replace") if found else None


def _watch(mark: str, *folders: str) -> None:
    """Reads until the launcher's end of the pipe closes, which the kernel does whatever killed it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end(lambda pid: is_member(pid, mark))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _watch(*sys.argv[1:])
