"""Ends an attempt that has stopped moving, after it has stored where every rank was.

A rank that hangs holds all others for ever: they wait in a collective, and nothing fails. So the driver looks at what
the attempt stores (its start, parts of rows, checkpoints). If nothing new has come for too long, all stacks go to
storage, then the cause, and only then are the ranks ended; the attempt counts as interrupted and is continued.
The limits are shorter than the collectives' own timeouts, which would end the ranks before anybody had looked.
"""

import contextlib
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from nanochat.loop.waiting import Answer, answer_of_text, who_holds_up
from sweeps.engine.cluster.on_node import on_node
from sweeps.engine.processes.beside import beside
from sweeps.engine.processes.launch_processes import own_mark
from sweeps.engine.ranks.stacks import ANSWER_S, RankPlace, end_rank, places, store_stacks, take
from sweeps.records.checkpoints import run_name
from sweeps.records.documents import AttemptError
from sweeps.records.experiment import Experiment
from sweeps.records.layout import TrialFolders

LOOK_S = 5.0
HUNG = "RankHung"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long an attempt may store nothing new."""

    first_step_s: float = 1500.0  # preparing data and compiling take minutes
    step_s: float = 600.0  # a step, an evaluation, a checkpoint, a recompilation


StoredCounts = tuple[int, int, int]  # ranks that have started, parts of rows, checkpoint folders


class Clock:
    """How long a mark has not changed, and whether that is too long. Time comes from outside."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._mark: StoredCounts = (0, 0, 0)
        self._since = 0.0

    def look(self, mark: StoredCounts, now: float) -> float | None:
        """The limit that is exceeded. While no rank has started, Ray's own timeout of a start counts instead."""
        if mark != self._mark or mark[0] == 0:
            self._mark, self._since = mark, now
        limit = self._limits.step_s if mark[1] else self._limits.first_step_s
        return limit if now - self._since > limit else None

    def forgive(self, now: float) -> None:
        """Storage could not be read: what has not been seen can have happened."""
        self._since = now


@contextlib.contextmanager
def watching(experiment: Experiment, trial: str, attempt: int, limits: Limits) -> Generator[None]:
    """Watches an attempt in a thread while the caller waits for its end."""
    with beside(lambda over: _watch(experiment, trial, attempt, limits, over), name="hang watch"):
        yield


def _watch(experiment: Experiment, trial: str, attempt: int, limits: Limits, over: threading.Event) -> None:
    clock = Clock(limits)
    while not over.wait(min(LOOK_S, limits.step_s / 4)):
        try:
            limit = clock.look(_mark(experiment, trial, attempt), time.monotonic())
            if limit is not None:
                _end(experiment, trial, attempt, limit)
                clock.forgive(time.monotonic())
        except OSError:
            clock.forgive(time.monotonic())


def _mark(experiment: Experiment, trial: str, attempt: int) -> StoredCounts:
    store, folders, run = experiment.store, TrialFolders(trial), run_name(attempt)
    parts = [name for name in store.list(folders.rows) if name.startswith(run)]
    return (len(places(store, trial, attempt)), len(parts), len(store.list(f"{folders.train}/{run}")))


def _end(experiment: Experiment, trial: str, attempt: int, limit_s: float) -> None:
    ranks = places(experiment.store, trial, attempt)
    stacks = {place.rank: _ask(place) for place in ranks}
    where = store_stacks(experiment.store, trial, attempt, stacks)
    record = experiment.trial(trial)
    if record.attempt(attempt).end is None:
        message = hang_message(ranks, stacks, limit_s, where)
        text = "\n".join(f"rank {rank}:\n{stack}" for rank, stack in stacks.items())
        record.note(attempt, "watch", error=AttemptError(type=HUNG, message=message, traceback=text))
    end_ranks(ranks)


def end_ranks(ranks: Sequence[RankPlace]) -> None:
    """Kills ranks on their nodes."""
    for place in ranks:
        with contextlib.suppress(Exception):  # its node can be gone, which Ray notices by itself
            on_node(place.node_id, end_rank, place, own_mark())


def _ask(place: RankPlace) -> str:
    try:
        return on_node(place.node_id, take, place, own_mark())
    except Exception as error:  # a node that is gone or does not answer hides one stack, not the others
        return f"its node {place.host} cannot be asked: {type(error).__name__}: {error}\n"


def hang_message(ranks: list[RankPlace], stacks: dict[int, str], limit_s: float, where: str) -> str:
    """The sentence that is stored with the attempt; `ranks` in order, `stacks` by rank."""
    answers = dict[int, Answer]()
    for index, place in enumerate(ranks):
        found = answer_of_text(stacks[place.rank], place.landmarks) if place.landmarks is not None else None
        if found is not None:
            answers[index] = found
    names = [f"rank {place.rank} ({place.host}, process {place.pid})" for place in ranks]
    who = who_holds_up(names, answers, ANSWER_S) or "each rank waits for another one or for its GPU"
    return f"{who}. Nothing was stored for {limit_s:.0f} s; the stacks of all ranks are in {where}"
