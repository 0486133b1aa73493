"""Checkpoints are written beside training: the training thread waits for a copy of the state, not for the disk.

At the moment of a save the values are copied into host memory that is set aside at the start, with the small state; a
writer thread does the rest through a process group of its own. One save is under way at most: the next one waits for
it. Its outcome is known to every rank at a step boundary soon after, where an error is raised on all of them. Whoever
leaves the saver, in whatever way, waits for the save that is under way, so it is complete or has failed, never cut.

The last save of a run has no training to wait for it; it is written from the live state on the training thread.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from nanochat.checkpoints import format as checkpoint
from nanochat.checkpoints.format import Moment, Parts
from nanochat.checkpoints.host_copies import HostCopies
from nanochat.machine.ranks import Ranks
from nanochat.stats import Hooks

WRITER = "checkpoint"  # the writer thread's name begins with it
UNDER_WAY, COMPLETE, FAILED = 0.0, 1.0, 2.0


class Snapshot:
    """A moment of the run for hooks.save, which may take as long as it wants. Collective over `ranks`."""

    last_file = checkpoint.INDEX

    def __init__(self, moment: Moment, ranks: Ranks) -> None:
        self.step = moment.step
        self._moment, self._ranks = moment, ranks

    def write(self, folder: Path) -> None:
        """Every rank; raises CheckpointError on all of them if one cannot write."""
        checkpoint.write(folder, self._moment, self._ranks)

    def together(self, action: Callable[[], object], *, first_only: bool = False) -> None:
        """Every rank: returns when all have done it, or rank 0 alone; raises CheckpointError on all if it failed."""
        mine = action if self._ranks.is_first or not first_only else lambda: None
        checkpoint.together(self._ranks, mine)


class Saver:
    """The saves of one run, one at a time. All ranks call the same methods after the same step."""

    def __init__(self, hooks: Hooks, parts: Callable[[], Parts], ranks: Ranks, *, beside_training: bool) -> None:
        """Collective. Without `beside_training` no memory is set aside and every save is waited for."""
        checkpoint.silence_notice()
        self._hooks, self._parts = hooks, parts
        self._ranks = ranks.beside()
        self._copies = HostCopies(parts().tensors()) if beside_training else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=WRITER)
        self._under_way: tuple[int, Future[None]] | None = None
        self._blocked_s = 0.0

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits, however training ended. What ended it is not hidden by a save that failed too."""
        self._pool.shutdown(wait=True)
        if self._under_way is not None:
            step, writing = self._under_way
            if writing.exception() is not None:
                print(f"warning: the checkpoint at step {step} has failed too: {writing.exception()}", flush=True)

    @property
    def is_under_way(self) -> bool:
        """Whether a save has begun that `settle` has not ended; its writer may take time from a step."""
        return self._under_way is not None

    @property
    def status(self) -> float:
        """This rank's outcome, for a collective that is due anyway; `is_over` reads all ranks'."""
        if self._under_way is None or not self._under_way[1].done():
            return UNDER_WAY
        return COMPLETE if self._under_way[1].exception() is None else FAILED

    def save(self, *, last: bool) -> None:
        """Collective. Saves this moment; `last`: no step follows, so it is complete when this returns.

        Raises what hooks.save raises, here for the last save and for the one before, else at `settle`.
        """
        self.settle()
        with self._blocking():
            parts = self._parts()
            self._hooks.before_save(parts.step)
            if last or self._copies is None:
                self._hooks.save(Snapshot(parts.now(), self._ranks))
                self._hooks.saved(parts.step)
            else:
                snapshot = Snapshot(parts.now(self._copies.take), self._ranks)
                self._under_way = parts.step, self._pool.submit(self._write, snapshot)

    def _write(self, snapshot: Snapshot) -> None:
        """On the writer thread; waiting.py knows that thread by this file."""
        self._hooks.save(snapshot)

    def settle(self) -> None:
        """Collective. Waits for the save that is under way, if one is; raises what it raised, on every rank."""
        if self._under_way is None:
            return
        (step, writing), self._under_way = self._under_way, None
        with self._blocking():
            writing.result()
            self._hooks.saved(step)

    def take_blocked_ms(self) -> float:
        """How long training has waited in here since this was asked last."""
        blocked_ms, self._blocked_s = self._blocked_s * 1e3, 0.0
        return blocked_ms

    @contextmanager
    def _blocking(self) -> Iterator[None]:
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self._blocked_s += time.perf_counter() - start_s


def is_over(statuses: list[float]) -> bool:
    """Whether the save has ended on all ranks, or failed on one, from which the others cannot recover."""
    return FAILED in statuses or set(statuses) == {COMPLETE}
