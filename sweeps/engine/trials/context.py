"""What one launch of an experiment is given, once and for all: where it runs, how, and who listens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sweeps.engine.ranks.worker import TrainFunction
from sweeps.engine.watching.events import Event
from sweeps.engine.watching.hang_watch import Limits
from sweeps.records.experiment import Experiment
from sweeps.spec.parts import Parallel

DEFAULT_GRACE_S = 60.0

OnEvent = Callable[[Event], None]
Refresh = Callable[[Experiment], object]
Grow = Callable[[Experiment], bool]
GrowAhead = Callable[[Experiment, int], bool]


@dataclass(frozen=True, kw_only=True)
class LaunchContext:
    """Everything about a launch but the experiment."""

    on_event: OnEvent
    refresh: Refresh  # regenerates the results after each leg
    address: str | None = None  # a Ray cluster's; None: a private one
    num_workers: int | None = None  # None: as planned
    grace_s: float = DEFAULT_GRACE_S  # for a stopped leg to write a checkpoint
    stop_after_s: float | None = None  # then it stops by itself, as if a user had asked
    preflight: bool | None = False  # first a few steps of every leg; None: if legs run on GPUs
    retry: Sequence[str] = ()  # trials that failed or were dropped, and run again
    drop: Sequence[str] = ()  # trials that are given up
    grow: Grow = lambda experiment: False  # called when all trials are over; True: it added trials, which run too
    # The same while a node is free and trials run; with the number of blocks that may be ahead of the complete ones.
    grow_ahead: GrowAhead = lambda experiment, ahead: False
    parallel: Parallel | Literal["off"] = None  # blocks at a time, each on one node; None: as planned
    limits: Limits = field(default_factory=Limits)
    train: TrainFunction | None = None  # replaces the trainer, for tests
