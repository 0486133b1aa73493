"""Checkpoints are written in the background: the training thread waits for a copy of the state, not for the disk.

At the moment of a save the values are copied into host memory that is set aside at the start, with the small state; a
writer thread does the rest through its own process group. One save is under way at most: the next one waits for
it. Its outcome is known to every rank at a step boundary soon after, where an error is raised on all of them. All who
leave the saver, in whatever way, wait for the save that is under way, so it is complete or has failed, never cut.

The last save of a run has no training to wait for it; it is written from the live state on the training thread.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType

from nanochat.checkpoints.format import TrainState, silence_notice
from nanochat.checkpoints.host_copies import HostCopies
from nanochat.machine.ranks import Ranks
from nanochat.stats import Hooks

WRITER = "checkpoint"  # the writer thread's name begins with it
UNDER_WAY, COMPLETE, FAILED = 0.0, 1.0, 2.0


class Saver:
    """The saves of one run, one at a time. All ranks call the same methods after the same step."""

    def __init__(self, hooks: Hooks, state: Callable[[], TrainState], ranks: Ranks, *, beside_training: bool) -> None:
        """Collective. Without `beside_training` no memory is set aside and every save is waited for."""
        silence_notice()
        self._hooks, self._state = hooks, state
        self._ranks = ranks.beside()
        self._copies = HostCopies(state().tensors) if beside_training else None
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
        """Whether a save has begun that `settle` has not ended; its writer can take time from a step."""
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
            state = replace(self._state(), ranks=self._ranks)
            self._hooks.before_save(state.step)
            if last or self._copies is None:
                self._hooks.save(state)
                self._hooks.saved(state.step)
            else:
                copied = state.copied(self._copies.take)
                self._under_way = state.step, self._pool.submit(self._write, copied)

    def _write(self, state: TrainState) -> None:
        """On the writer thread; waiting.py knows that thread by this file."""
        self._hooks.save(state)

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
