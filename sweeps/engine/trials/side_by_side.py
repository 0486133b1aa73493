"""Blocks side by side: what the order of blocks decides is done here, to nodes and in storage.

Tune's thread calls `bind` and `ended`. What a person is to be told waits in a queue for the main thread.
"""

import contextlib
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from sweeps.engine.cluster.nodes import ClusterNodes
from sweeps.engine.cluster.places import Node
from sweeps.engine.cluster.reservations import free_reservations
from sweeps.engine.processes.storage_retry import with_retries
from sweeps.engine.trials.binding import Binding, StoredLeg, choose, is_there
from sweeps.engine.trials.blocks import BlockOrder
from sweeps.engine.watching.events import BlockBound, Event, Warned
from sweeps.records.attempts import owner_number_of
from sweeps.records.documents import BlockMove, utc_now
from sweeps.records.experiment import Experiment
from sweeps.records.trial import TrialRecord
from sweeps.spec.plan import Trial


class SideBySide:
    """Binds blocks of an experiment to nodes, and cleans up behind a leg."""

    def __init__(
        self,
        experiment: Experiment,
        parallel: int | Literal["auto"],
        nodes: ClusterNodes,
        is_open: Callable[[TrialRecord], bool],
        task_of: Callable[[Trial, Node], dict[str, Any]],
    ) -> None:
        self._experiment = Experiment(experiment.store, experiment.manifest)  # the main thread's can grow
        self._experiment.act_beside(experiment)
        self._is_lost = experiment.ownership_lost
        self._nodes, self._is_open, self._task_of = nodes, is_open, task_of
        self._told: queue.SimpleQueue[tuple[Event, dict[str, int]]] = queue.SimpleQueue()
        blocks = range(1, experiment.plan.num_blocks + 1)
        most = None if parallel == "auto" else parallel
        self.order = BlockOrder(blocks, most, nodes, self.bind, self.ended)

    def told(self) -> Iterator[tuple[Event, dict[str, int]]]:
        """What is new for a person, with the trials that run again and how many attempts they had."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._told.get_nowait()

    @property
    def most_blocks(self) -> int:
        """How many blocks can run at the same time."""
        return self.order.most_of(len(self._nodes.holding()))

    def bind(self, block: int, free: Sequence[Node]) -> tuple[Node, list[dict[str, Any]]] | None:
        """A node for a block, and the tasks of its open legs; None if no free node will do, or storage fails."""
        try:
            return with_retries(lambda: self._bind(block, free))
        except OSError:
            return None

    def _bind(self, block: int, free: Sequence[Node]) -> tuple[Node, list[dict[str, Any]]] | None:
        self._experiment.has_grown()
        trials = {trial.name: trial for trial in self._experiment.plan.trials if trial.block == block}
        known = self._nodes.known()
        legs = [self._stored_leg(name) for name in trials]
        lives = {id: is_fit for id, (_, is_fit) in known.items()}
        binding = choose(legs, free, lives, {id: node.host for id, (node, _) in known.items()})
        if binding is None or self._is_lost() or self._has_newer_owner(legs):
            return None
        has_moved = has_left(legs, binding, lives)
        if has_moved:
            self._move(block, binding)
        again = {name: len(self._experiment.trial(name).attempts()) for name in binding.again}
        node, left = binding.node, [leg.name for leg in legs if leg.is_open or leg.name in binding.again]
        if left:
            bound = BlockBound(block=block, node_id=node.id, host=node.host, again=binding.again, has_moved=has_moved)
            self._told.put((bound, again))
        return node, [self._task_of(trials[name], node) for name in left]

    def _has_newer_owner(self, legs: Sequence[StoredLeg]) -> bool:
        """True if a later launch has begun a leg: this one was taken for dead, and must open nothing again."""
        own = self._experiment.owner_number
        return bool(own) and any(leg.last is not None and owner_number_of(leg.last.number) > own for leg in legs)

    def _move(self, block: int, binding: Binding) -> None:
        self._experiment.move(
            BlockMove(
                block=block,
                node_id=binding.node.id,
                node_host=binding.node.host,
                again=list(binding.again),
                moved_utc=utc_now(),
            )
        )

    def _stored_leg(self, name: str) -> StoredLeg:
        record = self._experiment.trial(name)
        attempts = record.attempts() if record.origin() is None else []
        is_completed = record.result() is not None
        return StoredLeg(
            name=name,
            is_open=self._is_open(record),
            is_completed=is_completed,
            last=attempts[-1] if attempts else None,
        )

    def ended(self, task: dict[str, Any]) -> None:
        """After a leg's driver: what a killed one has left reserved is freed; a node that it found unfit is barred."""
        import ray

        with contextlib.suppress(Exception):  # the cluster can be gone
            if ray.is_initialized():
                free_reservations(task["tag"])
        with contextlib.suppress(OSError):
            refusal = with_retries(lambda: self._experiment.refusal_on_node(task["node_id"]))
            if refusal is not None:
                self._nodes.bar(task["node_id"])
                text = f"node {task['node_id'][:8]} ({task['node_host']}) gets no more legs: {refusal.reason}"
                self._told.put((Warned(message=text), {}))
                if not self._nodes.holding():
                    self._experiment.refuse(refusal.reason, refusal.exit_code)


def has_left(legs: Sequence[StoredLeg], binding: Binding, nodes: dict[str, bool]) -> bool:
    """True if some leg of the block has begun on another node."""
    begun = [leg.last for leg in legs if leg.was_bound and leg.last is not None and (leg.is_open or leg.is_completed)]
    is_left = any(leg.is_open for leg in legs)
    return is_left and any(not is_there(attempt, binding.node, nodes) for attempt in begun)
