"""Where every rank of an attempt is in its code, asked from outside and answered even by a rank that hangs.

At its start a rank notes in storage which process of which node it is, and has faulthandler answer a signal: that
writes the stacks of all threads from within the signal handler, so it needs neither the interpreter's lock nor an end
of the C function that hangs. The answer is written into memory that the kernel shows as a file of that process, so no
file has to be named, found or removed. Asking and ending are done on the rank's own node, through Ray where that is
another one, and only if the process has the launch's mark and was started when the rank says.
"""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import contextlib
import faulthandler
import json
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nanochat.loop.waiting import Landmarks, with_sources
from sweeps.engine.processes import launch_processes, scratch
from sweeps.engine.processes.signals import signal_if
from sweeps.engine.processes.storage_retry import or_lost
from sweeps.records.documents import json_object
from sweeps.records.layout import TrialFolders
from sweeps.records.owner import process_started
from sweeps.records.store import Store
from sweeps.spec.checked import typed
from sweeps.spec.errors import CorruptData

ASK = signal.SIGUSR2
_ANSWER = "nanochat-sweep-stacks"
ANSWER_S = 20.0  # for writing the stacks of a process


@dataclass(frozen=True, kw_only=True)
class RankPlace:
    """Which process a rank is."""

    rank: int
    host: str
    node_id: str  # Ray's
    pid: int
    started: int | None = None  # clock ticks after boot; unknown of older experiments, whose ranks get no signal
    landmarks: Landmarks | None = None  # by which its stacks are read; older experiments have none

    def is_process(self, pid: int, mark: str) -> bool:
        """Whether a process is this rank, of the launch with this mark."""
        is_same = pid == self.pid and self.started is not None and process_started(pid) == self.started
        return is_same and launch_processes.is_member(pid, mark)


def stacks_folder(trial: str) -> str:
    """Where a trial's stacks are in its experiment."""
    return TrialFolders(trial).stacks


def enlist(store: Store, trial: str, attempt: int, landmarks: Landmarks) -> None:
    """In a rank: notes its process, and from now on answers `ASK`. Its children carry the leg's mark."""
    import socket

    import ray
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    answer_when_asked()
    os.environ[launch_processes.LEG_VARIABLE] = launch_processes.leg_mark(store.uri, trial)
    node_id = ray.get_runtime_context().get_node_id()
    place = RankPlace(
        rank=rank,
        host=socket.gethostname(),
        node_id=node_id,
        pid=os.getpid(),
        started=process_started(os.getpid()),
        landmarks=landmarks,
    )
    name, data = f"a{attempt:03d}-r{rank:03d}.json", json.dumps(asdict(place)).encode()
    or_lost(f"the start of {trial} cannot be stored", lambda: store.write(f"{stacks_folder(trial)}/{name}", data))


def answer_when_asked() -> None:
    """From now on this process writes its stacks when it gets `ASK`, for as long as it lives."""
    faulthandler.register(ASK, file=os.memfd_create(_ANSWER), all_threads=True)


def places(store: Store, trial: str, attempt: int) -> list[RankPlace]:
    """The ranks of an attempt that have started, by rank. A damaged record is left out: its rank gets no signal."""
    folder, name_of_rank = stacks_folder(trial), re.compile(rf"a{attempt:03d}-r(\d{{3,6}})\.json")
    found: list[RankPlace] = []
    for name in store.list(folder):
        match = name_of_rank.fullmatch(name)
        if match:
            with contextlib.suppress(CorruptData):
                values = json_object(store.read(f"{folder}/{name}"), store.uri_of(f"{folder}/{name}"))
                found.append(typed(RankPlace, values | {"rank": int(match[1])}, name))
    return sorted(found, key=lambda place: place.rank)


def store_stacks(store: Store, trial: str, attempt: int, stacks: Mapping[int, str]) -> str:
    """Stores what the ranks answered; the folder's address."""
    for rank, text in stacks.items():
        store.write(f"{stacks_folder(trial)}/a{attempt:03d}-r{rank:03d}.txt", text.encode())
    return store.uri_of(stacks_folder(trial))


def take(place: RankPlace, mark: str) -> str:
    """On a rank's host: its stacks now with their lines of source, or why it does not answer."""
    before = len(_answers(place.pid))
    if not signal_if(place.pid, ASK, lambda pid: place.is_process(pid, mark) and _answer_file(pid) is not None):
        return f"process {place.pid} cannot be asked: it is gone, or it is not this rank\n"
    deadline = time.monotonic() + ANSWER_S
    seen = before
    while time.monotonic() < deadline:
        time.sleep(0.5)
        answers = _answers(place.pid)
        if len(answers) > before and len(answers) == seen:
            return with_sources(answers[before:].decode(errors="replace"))
        seen = len(answers)
    return f"process {place.pid} did not answer within {ANSWER_S:.0f} s; {_kernel_state(place.pid)}\n"


def _answer_file(pid: int) -> Path | None:
    """Where the kernel shows what a process has written into its memory; None of one that answers nothing."""
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
    for link in links:
        with contextlib.suppress(OSError):  # closed since it was listed
            if os.readlink(link).startswith(f"/memfd:{_ANSWER}"):
                return link
    return None


def _answers(pid: int) -> bytes:
    path = _answer_file(pid)
    try:
        return b"" if path is None else path.read_bytes()
    except OSError:
        return b""


def end_rank(place: RankPlace, mark: str) -> None:
    """On a rank's host: ends it at once."""
    signal_if(place.pid, signal.SIGKILL, lambda pid: place.is_process(pid, mark))


def end_leg(mark: str, leg: str, ranks: Sequence[RankPlace]) -> None:
    """On a host: ends what is left of an attempt's ranks there and of what they started, and their files.

    `mark` is the launch's, `leg` that of what the ranks start.
    """
    launch_processes.end(
        lambda pid: launch_processes.is_of_leg(pid, leg) or any(place.is_process(pid, mark) for place in ranks)
    )
    for place in ranks:
        scratch.remove_left(place.pid, place.started)


def _kernel_state(pid: int) -> str:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it is gone"
    return next((f"its state is {line.partition(':')[2].strip()}" for line in lines if line.startswith("State:")), "")
