"""Which node a block gets, and which of its legs run there: decided from its attempts and the nodes.

Storage is the memory: each attempt of a bound block says on which node it was. A node is known by Ray's id as long as
the cluster lives; after that by the name of its machine, because a new cluster gives new ids.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sweeps.engine.cluster.places import Node
from sweeps.records.documents import AttemptRecord


@dataclass(frozen=True, kw_only=True)
class StoredLeg:
    """What storage says of a leg of a block."""

    name: str
    is_open: bool  # it can still run
    is_completed: bool
    last: AttemptRecord | None  # its last attempt; None too if another experiment ran it

    @property
    def was_bound(self) -> bool:
        """True if it is known on which node it ran."""
        return self.last is not None and self.last.node_id is not None


@dataclass(frozen=True)
class Binding:
    """A block on a node: what runs there, and which completed legs run again because they ran elsewhere."""

    node: Node
    again: tuple[str, ...]


def is_there(attempt: AttemptRecord, node: Node, known_ids: Collection[str]) -> bool:
    """True if an attempt was on this node. `known_ids`: of all nodes that the cluster ever had."""
    if attempt.node_id in known_ids:
        return attempt.node_id == node.id
    return attempt.node_host == node.host


def choose(
    legs: Sequence[StoredLeg], free: Sequence[Node], nodes: Mapping[str, bool], hosts: Mapping[str, str]
) -> Binding | None:
    """The node of a block among free ones; None if it waits for its own, which is not free.

    `nodes`: whether each node lives and is fit, by id, of all that the cluster ever had; `hosts`: their machines.
    """
    bound = [leg for leg in legs if leg.was_bound]
    done = [leg.last for leg in bound if leg.is_completed and leg.last is not None]
    begun = done or [leg.last for leg in bound if leg.last is not None]
    own = [node for node in free if any(is_there(attempt, node, nodes) for attempt in begun)]
    if own:
        return _bound(legs, own[0], nodes)
    if done and any(_lives(attempt, nodes, hosts) for attempt in done):
        return None
    return _bound(legs, free[0], nodes) if free else None


def _lives(attempt: AttemptRecord, nodes: Mapping[str, bool], hosts: Mapping[str, str]) -> bool:
    """True if the node of an attempt is still there."""
    if attempt.node_id is not None and attempt.node_id in nodes:
        return nodes[attempt.node_id]
    return any(lives and hosts[id] == attempt.node_host for id, lives in nodes.items())


def _bound(legs: Sequence[StoredLeg], node: Node, known_ids: Collection[str]) -> Binding:
    again = [
        leg.name
        for leg in legs
        if leg.is_completed and leg.was_bound and leg.last is not None and not is_there(leg.last, node, known_ids)
    ]
    return Binding(node, tuple(again) if any(leg.is_open for leg in legs) else ())
