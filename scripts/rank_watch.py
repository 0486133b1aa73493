"""Ends a run with a hung or dead rank, and names that rank.

A rank that hangs or is killed holds the others in a collective, and what torch says then names no rank: gloo that a
connection is closed or a time is over, NCCL that the process which waited is aborted. So each rank has a thread beside
the one that trains. When training waits longer than HANG_S, or when a collective fails, every rank is asked through
the launcher's key-value store: the thread of every rank answers what training does there, and who does not answer, or
does not wait, is reported. A rank that fails by its own error leaves a sentence in the store, and no rank waits for it.

With NCCL nothing fails where a rank is killed: the others wait inside a kernel until the launcher kills them too. So a
rank that waits longer than GRACE_S looks whether the processes of the ranks on its own machine are still there.

Under Ray the driver of a trial does this from outside (sweeps/engine/watching/hang_watch.py).
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from nanochat.checkpoints.saving import WRITER
from nanochat.loop.waiting import Answer, Landmarks, Stack, answer, frames_of, in_collective, who_holds_up

HANG_S = 600.0  # longer than any rank computes alone: evaluation, samples, a checkpoint
ANSWER_S = 10.0
LOOK_EVERY_S = 1.0
GRACE_S = 3.0  # for a rank to find by itself what another one has failed of
_ASKED_S = ANSWER_S + GRACE_S + 3 * LOOK_EVERY_S  # every rank has answered by then, or never will
_ENDED, _CALLED, _SAID = "ended", "called", "said"
_RESUME = "add --resume latest to resume from the newest checkpoint"


def _machine() -> str:
    """Where a process number means one process: the host, and the container if that counts for itself."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {os.readlink(space) if space.is_symlink() else ''}"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def gone(names: Sequence[str]) -> str:
    """What to say of ranks whose processes have ended, though they have not said why."""
    are = "is" if len(names) == 1 else "are"
    who = " and ".join(names)
    return f"{who} {are} gone: killed, or crashed outside of Python. The other ranks cannot continue; {_RESUME}"


def verdict(names: Sequence[str], answers: Mapping[int, Answer], cause: str) -> str:
    """Who holds the others up. `names` of all ranks; `answers` of those that gave one within ANSWER_S."""
    found = who_holds_up(names, answers, ANSWER_S)
    found = found or "every rank answered, so it cannot be told which of them holds the others up"
    return f"{found}. {cause}; {_RESUME}"


class RankWatch:
    """Watches from this rank, as a context around the training.

    Without a store there is no launcher and no thread; a rank that is alone watches its launcher only.
    """

    def __init__(self, store: Store | None, rank: int, world_size: int) -> None:
        self._store, self._rank, self._world_size = store, rank, world_size
        self._name = f"rank {rank} ({socket.gethostname()}, process {os.getpid()})"
        self._training, self._launcher = threading.get_ident(), os.getppid()
        self._machine = _machine()
        self._files = Landmarks.here(__file__, "")  # the threads are known by their numbers here
        self._neighbours: dict[int, int | None] = {}  # process by rank; None: on another machine
        self._waits_since_s: float | None = None
        self._answered_s: float | None = None
        self._ended_s: float | None = None
        self._is_broken = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rank watch", daemon=True)

    @classmethod
    def of_environment(cls) -> Self:
        """For the process group that the environment describes; inert outside of a launcher."""
        if not dist.is_initialized():
            return cls(None, 0, 1)
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, wait_for_workers=False)
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return cls(PrefixStore(f"rank_watch/{start}", store), dist.get_rank(), dist.get_world_size())

    def step_done(self) -> None:
        """Call it from the training thread after every step."""
        self._waits_since_s = None

    def __enter__(self) -> Self:
        if self._store is not None:
            self._store.set(f"name/{self._rank}", self._name)
            self._store.set(f"process/{self._rank}", f"{os.getpid()} {self._machine}")
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._store is None:
            return
        if isinstance(error, Exception):
            first_line = str(error).strip().partition("\n")[0]
            if self._world_size > 1 and in_collective(
                frames_of(traceback.extract_tb(error.__traceback__)), self._files
            ):
                self._is_broken = True
                self._tell(_CALLED, f"A collective failed ({first_line})")
                self._thread.join(_ASKED_S)  # returns where the error itself is all there is to say
            self._tell(_ENDED, f"{self._name} failed: {type(error).__name__}: {first_line}")
        self._over.set()
        self._thread.join(_ASKED_S)

    def _tell(self, key: str, text: str) -> str:
        """Sets it unless it is set; what it is then. Says nothing where the store is gone with its launcher."""
        with contextlib.suppress(dist.DistError):
            return self._store.compare_set(key, "", text).decode() if self._store is not None else text
        return text

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            if os.getppid() != self._launcher:
                os.kill(os.getpid(), signal.SIGTERM)  # what a launcher that is ended properly passes on
                return
            if self._world_size == 1:
                continue
            try:
                assert self._store is not None
                found = self._look(self._store, time.monotonic())
            except dist.DistError:  # the store has ended before this rank's launcher
                if self._is_broken:
                    return
                continue
            if found is not None:
                self.end(found)
                return

    def _look(self, store: Store, now_s: float) -> str | None:
        """One look: notes what training does, answers a call, and returns why the run is to end."""
        doing = self.doing()
        is_waiting = self._is_broken or doing.waits
        self._waits_since_s = (self._waits_since_s or now_s) if is_waiting else None
        if store.check([_ENDED]):
            self._ended_s = self._ended_s or now_s
            return store.get(_ENDED).decode() if now_s - self._ended_s >= GRACE_S else None
        if self._waits_since_s is not None and now_s - self._waits_since_s >= GRACE_S:
            lost = self._lost(store)
            if lost:
                return gone(self._names(store, lost))
        if self._waits_since_s is not None and now_s - self._waits_since_s > HANG_S:
            self._tell(_CALLED, f"The others have waited for {HANG_S:.0f} s")
        if not store.check([_CALLED]):
            return None
        if self._answered_s is None:
            self._answered_s = now_s
            store.set(f"answer/{self._rank}", json.dumps(asdict(Answer(is_waiting, doing.place))))
        ranks = range(self._world_size)
        answers = {r: Answer(**json.loads(store.get(f"answer/{r}"))) for r in ranks if store.check([f"answer/{r}"])}
        if len(answers) < self._world_size and now_s - self._answered_s < ANSWER_S:
            return None
        if len(answers) == self._world_size and self._is_broken:
            self._over.set()
            return None
        return verdict(self._names(store, ranks), answers, store.get(_CALLED).decode())

    def _names(self, store: Store, ranks: Iterable[int]) -> list[str]:
        return [store.get(f"name/{r}").decode() if store.check([f"name/{r}"]) else f"rank {r}" for r in ranks]

    def _lost(self, store: Store) -> list[int]:
        """Ranks of this machine whose process is no more."""
        for rank in range(self._world_size):
            if rank not in self._neighbours and store.check([f"process/{rank}"]):
                process, _, machine = store.get(f"process/{rank}").decode().partition(" ")
                self._neighbours[rank] = int(process) if machine == self._machine else None
        return [rank for rank, process in self._neighbours.items() if process is not None and not _lives(process)]

    def doing(self) -> Answer:
        """What training does now."""
        frames = sys._current_frames()
        writers = [t.ident for t in threading.enumerate() if t.name.startswith(WRITER) and t.ident in frames]
        stacks: list[Stack] = [frames_of(traceback.extract_stack(frames[t])) for t in (self._training, *writers) if t]
        return answer(stacks[0], stacks[1:], self._files)

    def end(self, found: str) -> None:
        """Ends the process, whatever its training thread is inside of. One rank speaks for all."""
        if self._tell(_SAID, str(self._rank)) == str(self._rank):
            print(f"error: {found}", file=sys.stderr, flush=True)
        else:
            time.sleep(LOOK_EVERY_S)  # a launcher ends all ranks once one has ended, and that should be the speaker
        os._exit(1)
