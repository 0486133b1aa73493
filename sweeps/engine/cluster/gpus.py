"""Before a leg starts its GPUs must be free: what an earlier leg left is killed, another user's process is not.

A leg beside a foreign process would measure that process too, or run out of memory in the middle. Which
processes hold a GPU is asked of the driver (NVML); what follows from it is a pure function.
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.engine.processes import launch_processes
from sweeps.engine.processes.signals import signal_if

FREED_S = 15.0  # for the driver to forget an ended process, whose pid it may count otherwise than we do


@dataclass(frozen=True)
class Holder:
    """A process that computes on a GPU."""

    gpu: int  # as nvidia-smi counts them
    pid: int
    is_ours: bool  # left by an earlier leg of this experiment


@dataclass(frozen=True)
class Occupancy:
    """What to do before a leg can start; both empty: start it."""

    to_end: tuple[int, ...]  # pids
    strangers: tuple[Holder, ...]


def occupancy(holders: Sequence[Holder]) -> Occupancy:
    """One other user suffices to start nothing, and then nothing is killed either."""
    strangers = tuple(holder for holder in holders if not holder.is_ours)
    ours = () if strangers else tuple(dict.fromkeys(holder.pid for holder in holders))
    return Occupancy(to_end=ours, strangers=strangers)


def free(mark: str, gpus: Sequence[int] | None = None, living: Sequence[str] = ()) -> str | None:
    """Makes this host's GPUs free for the launch with this mark. Why they are not, or None.

    `living`: the marks of legs that run next to the one that is about to start; nothing of theirs is killed.
    """
    chosen = visible_gpus() if gpus is None else gpus
    deadline = time.monotonic() + FREED_S
    while True:
        seen = occupancy(holders(mark, chosen, living))
        if not seen.strangers and not seen.to_end:
            return None
        if time.monotonic() > deadline:
            break
        for pid in seen.to_end:
            signal_if(pid, signal.SIGKILL, lambda found: _is_left(found, mark, living))
        time.sleep(0.5)
    if seen.strangers:
        return in_use_by_others(seen.strangers)
    return f"processes {', '.join(map(str, seen.to_end))} of an earlier leg do not leave the GPUs"


def in_use_by_others(strangers: Sequence[Holder]) -> str:
    """The sentence that says who is in the way."""
    named = "; ".join(f"GPU {holder.gpu} by process {holder.pid} ({command(holder.pid)})" for holder in strangers)
    return (
        f"GPUs are in use by others: {named}. No leg is started beside them. Wait for their end, or leave these GPUs "
        f"out with CUDA_VISIBLE_DEVICES; then continue with restore"
    )


def legs_on_gpus(mark: str) -> list[str]:
    """The marks of this experiment's legs that have a process on a GPU which is visible here."""
    pids = [holder.pid for holder in holders(mark, visible_gpus()) if holder.is_ours]
    return list(dict.fromkeys(leg for pid in pids if (leg := launch_processes.leg_of(pid)) is not None))


def _is_left(pid: int, mark: str, living: Sequence[str]) -> bool:
    return launch_processes.is_related(pid, mark) and launch_processes.leg_of(pid) not in living


def holders(mark: str, gpus: Sequence[int], living: Sequence[str] = ()) -> list[Holder]:
    """The processes that compute on the given GPUs, except this one."""
    try:
        nvml = _nvml()
    except Exception:
        return []  # no driver, no GPU
    found: list[Holder] = []
    for gpu in gpus:
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(gpu)):
            if process.pid != os.getpid():
                found.append(Holder(gpu, process.pid, _is_left(process.pid, mark, living)))
    return found


def visible_gpus() -> list[int]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to us, by the driver's numbers; all of them if it is not set."""
    return chosen_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), _all_ids())


def visible_ids() -> list[str]:
    """The same GPUs by the ids that no other GPU has."""
    ids = _all_ids()
    return [ids[number] for number in chosen_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), ids)]


def _all_ids() -> list[str]:
    try:
        nvml = _nvml()
        return [nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(nvml.nvmlDeviceGetCount())]
    except Exception:
        return []


def chosen_gpus(setting: str | None, ids: Sequence[str]) -> list[int]:
    """The numbers that a CUDA_VISIBLE_DEVICES chooses: numbers or beginnings of ids, up to the first invalid one."""
    if setting is None:
        return list(range(len(ids)))
    chosen: list[int] = []
    for item in map(str.strip, setting.split(",")):
        matching = [
            i for i, id in enumerate(ids) if item == str(i) or (item.startswith("GPU-") and id.startswith(item))
        ]
        if len(matching) != 1:
            break
        chosen += matching
    return chosen


def command(pid: int) -> str:
    """A process's command line, for people."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "not visible from here"
    return words[:120] or "no command line"


def _nvml() -> Any:
    import pynvml  # pyright: ignore[reportMissingTypeStubs]

    pynvml.nvmlInit()
    return pynvml
