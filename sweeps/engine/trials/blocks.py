"""Hands Ray Tune the legs of several blocks side by side: each block on its own node, its legs one after the other.

Legs of a block are compared with each other, so they must see the same machine, and nothing next to them. A block is
bound to the first free node that it gets and stays there. A node that dies gives its block back: the block is run whole
on another node, legs included that had completed on the lost one, because their partners run elsewhere now.
Tune calls from its own thread, so everything that is shared with the launcher's main thread is behind one lock.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray.tune.search import Searcher

from sweeps.engine.cluster.places import Node


class Cluster(Protocol):
    """The nodes, as they are when asked."""

    def free(self) -> Sequence[Node]:
        """Living, fit nodes that can hold a leg now."""
        ...

    def lives(self, node: Node) -> bool:
        """True if a node has not died and is still fit for legs."""
        ...


@dataclass
class _Block:
    number: int
    node: Node | None = None
    legs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # left to run on the node, in plan order
    running: str | None = None  # Tune's id of the trial
    is_over: bool = False


class BlockOrder(Searcher):
    """The blocks of a plan, first to last. Tune passes arguments by name, so theirs are kept.

    `most`: how many run at the same time; None: as many as there are free nodes. `bind` binds a block to one of some
    free nodes and returns the node with the tasks that are left to run there; None if none of them will do now.
    `ended` is called with the task of a leg whose driver has ended.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        most: int | None,
        cluster: Cluster,
        bind: Callable[[int, Sequence[Node]], tuple[Node, list[dict[str, Any]]] | None],
        ended: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__()
        self._blocks = [_Block(number) for number in blocks]
        self._most, self._cluster, self._bind, self._ended = most, cluster, bind, ended
        self._tasks: dict[str, dict[str, Any]] = {}
        self._stopped = False
        self._lock = threading.RLock()

    @property
    def has_more(self) -> bool:
        """True if a trial is still to be suggested or runs."""
        with self._lock:
            return bool(self._tasks) or (not self._stopped and any(not block.is_over for block in self._blocks))

    @property
    def waits_for_node(self) -> bool:
        """True if nothing runs and a block has no node yet."""
        with self._lock:
            is_waiting = any(not block.is_over and block.node is None for block in self._blocks)
            return not self._tasks and not self._stopped and is_waiting

    @property
    def has_idle_node(self) -> bool:
        """True if another block could start now, and none waits."""
        with self._lock:
            waits = any(not block.is_over and block.node is None for block in self._blocks)
            return not self._stopped and not waits and bool(self._free_nodes())

    def most_of(self, num_nodes: int) -> int:
        """How many blocks can run at the same time on as many nodes."""
        return num_nodes if self._most is None else min(self._most, num_nodes)

    def add(self, blocks: Collection[int]) -> None:
        """Further blocks, after those that are there."""
        with self._lock:
            known = {block.number for block in self._blocks}
            self._blocks += [_Block(number) for number in sorted(blocks) if number not in known]

    def stop(self) -> None:
        """Suggests nothing more; the trials that run are left alone."""
        with self._lock:
            self._stopped = True

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """There is nothing to optimise, so any properties suit."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next leg of the first block that has its node to itself; None while all wait; FINISHED at the end."""
        with self._lock:
            if not self._stopped:
                for block in self._blocks:
                    if self._is_ready(block):
                        block.running = trial_id
                        self._tasks[trial_id] = block.legs.pop(0)
                        return self._tasks[trial_id]
            return None if self.has_more else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Makes room for the block's next leg, however the trial ended; gives the block back if its node is lost."""
        with self._lock:
            if trial_id not in self._tasks:
                return
            self._ended(self._tasks.pop(trial_id))
            for block in self._blocks:
                if block.running == trial_id:
                    block.running = None
                    self._settle(block)

    def _settle(self, block: _Block) -> None:
        assert block.node is not None, "a leg runs on its block's node"
        if not self._cluster.lives(block.node):
            block.node, block.legs = None, []
        elif not block.legs:
            block.node, block.is_over = None, True

    def _is_ready(self, block: _Block) -> bool:
        """True if a leg of the block can start now; binds the block to a node if it can."""
        if block.is_over or block.running is not None:
            return False
        if block.node is not None and not self._cluster.lives(block.node):
            block.node, block.legs = None, []
        if block.node is None:
            bound = self._bind(block.number, nodes) if (nodes := self._free_nodes()) else None
            if bound is None:
                return False
            block.node, block.legs = bound
            if not block.legs:
                block.node, block.is_over = None, True
        return bool(block.legs)

    def _free_nodes(self) -> list[Node]:
        """None past the number of blocks that run at the same time."""
        taken = {block.node.id for block in self._blocks if block.node is not None}
        if self._most is not None and len(taken) >= self._most:
            return []
        return [node for node in self._cluster.free() if node.id not in taken]

    def __getstate__(self) -> dict[str, Any]:
        """Tune stores its settings in its scratch folder, this object among them; nothing reads that."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to keep: storage says what is left to do."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""
