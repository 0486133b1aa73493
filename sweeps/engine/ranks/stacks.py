"""Where every rank of an attempt is in its code, asked from outside and answered even by a rank that hangs.

At its start a rank notes in storage which process of which node it is, and has faulthandler answer a signal: that
writes the stacks of all threads from within the signal handler, so it needs neither the interpreter's lock nor an end
of the C function that hangs. Asking and ending are done on the rank's own node, through Ray where that is another one.
"""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import faulthandler
import json
import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat.loop.waiting import Landmarks, with_sources
from sweeps.engine.processes import launch_processes, scratch
from sweeps.engine.processes.storage_retry import or_lost
from sweeps.records.layout import TrialFolders
from sweeps.records.store import Store

ASK = signal.SIGUSR2
ANSWER_S = 20.0  # for writing the stacks of a process


@dataclass(frozen=True, kw_only=True)
class RankPlace:
    """Which process a rank is."""

    rank: int
    host: str
    node_id: str  # Ray's
    pid: int
    stacks_file: str  # on its host
    landmarks: Landmarks | None = None  # by which its stacks are read; older experiments have none

    @classmethod
    def stored(cls, values: dict[str, Any]) -> "RankPlace":
        """From its JSON."""
        stored: Any = values.get("landmarks")
        landmarks = None if stored is None else Landmarks.stored(stored)
        return cls(**{name: value for name, value in values.items() if name != "landmarks"}, landmarks=landmarks)


def folder_of(trial: str) -> str:
    """Where a trial's stacks lie in its experiment."""
    return TrialFolders(trial).stacks


def enlist(store: Store, trial: str, attempt: int, landmarks: Landmarks) -> None:
    """In a rank: notes its process, and from now on answers `ASK`. Its children carry the leg's mark."""
    import socket

    import ray
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    descriptor, path = tempfile.mkstemp(prefix="nanochat-sweep-stacks-")
    faulthandler.register(ASK, file=descriptor, all_threads=True)
    os.environ[launch_processes.LEG_VARIABLE] = launch_processes.leg_mark(store.uri, trial)
    node_id = ray.get_runtime_context().get_node_id()
    place = RankPlace(
        rank=rank, host=socket.gethostname(), node_id=node_id, pid=os.getpid(), stacks_file=path, landmarks=landmarks
    )
    name, data = f"a{attempt:03d}-r{rank:03d}.json", json.dumps(asdict(place)).encode()
    or_lost(f"the start of {trial} cannot be stored", lambda: store.write(f"{folder_of(trial)}/{name}", data))


def places(store: Store, trial: str, attempt: int) -> list[RankPlace]:
    """The ranks of an attempt that have started, by rank."""
    folder, prefix = folder_of(trial), f"a{attempt:03d}-r"
    names = sorted(n for n in store.list(folder) if n.startswith(prefix) and n.endswith(".json"))
    return [RankPlace.stored(json.loads(store.read(f"{folder}/{name}"))) for name in names]


def store_stacks(store: Store, trial: str, attempt: int, stacks: Mapping[int, str]) -> str:
    """Stores what the ranks answered; the folder's address."""
    for rank, text in stacks.items():
        store.write(f"{folder_of(trial)}/a{attempt:03d}-r{rank:03d}.txt", text.encode())
    return store.uri_of(folder_of(trial))


def take(pid: int, stacks_file: str) -> str:
    """On a rank's host: its stacks now with their lines of source, or why it does not answer."""
    path = Path(stacks_file)
    before = path.stat().st_size if path.exists() else 0
    try:
        os.kill(pid, ASK)
    except OSError as error:
        return f"process {pid} cannot be asked: {error}\n"
    deadline = time.monotonic() + ANSWER_S
    seen = before
    while time.monotonic() < deadline:
        time.sleep(0.5)
        size = path.stat().st_size if path.exists() else 0
        if size > before and size == seen:
            return with_sources(path.read_bytes()[before:].decode(errors="replace"))
        seen = size
    return f"process {pid} did not answer within {ANSWER_S:.0f} s; {_kernel_state(pid)}\n"


def end_process(pid: int) -> None:
    """On a rank's host: ends it at once."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def end_leg(mark: str, ranks: Sequence[RankPlace]) -> None:
    """On a host: ends what is left of an attempt's ranks there and of what they started, and their files."""
    launch_processes.end_leg(mark, [place.pid for place in ranks])
    for place in ranks:
        Path(place.stacks_file).unlink(missing_ok=True)
        scratch.remove_left(Path(place.stacks_file).parent, place.pid)


def _kernel_state(pid: int) -> str:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it is gone"
    return next((f"its state is {line.partition(':')[2].strip()}" for line in lines if line.startswith("State:")), "")
