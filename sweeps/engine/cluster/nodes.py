"""The nodes of a cluster, and whether every one reaches the storage of the experiment that is about to run there.

A leg's driver and ranks can be placed on any node. One whose folder of the same name is another folder would write rows
and checkpoints that no node finds, so a launch is rejected before that.
"""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.engine.cluster.gpus import visible_ids
from sweeps.engine.cluster.on_node import on_node
from sweeps.engine.cluster.places import Node, num_workers_on
from sweeps.records.store import Store
from sweeps.spec.errors import NoCluster


def living_nodes() -> tuple[Node, ...]:
    """The nodes that live now."""
    import ray

    return tuple(_node(node) for node in ray.nodes() if node["Alive"])


def is_alive(node_id: str) -> bool:
    """True if a node lives, as far as the cluster knows."""
    import ray

    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())


class ClusterNodes:
    """The nodes of this process's cluster as they are now, for legs of one size."""

    def __init__(self, num_workers: int, *, on_gpu: bool) -> None:
        self.num_workers, self.on_gpu = num_workers, on_gpu
        self._barred: set[str] = set()

    def bar(self, node_id: str) -> None:
        """Takes a node for unfit from now on."""
        self._barred.add(node_id)

    def known(self) -> dict[str, tuple[Node, bool]]:
        """Every node that the cluster ever had, by id, and whether it lives and is fit."""
        import ray

        return {node["NodeID"]: (_node(node), self._is_fit(node)) for node in ray.nodes()}

    def lives(self, node: Node) -> bool:
        """True if a node has not died and is fit."""
        return self.known().get(node.id, (node, False))[1]

    def holding(self) -> list[Node]:
        """Fit nodes that can hold a leg, whatever else is on them now."""
        return [node for node, is_fit in self.known().values() if is_fit and self._holds(node)]

    def free(self) -> list[Node]:
        """Fit nodes that can hold a leg now."""
        from sweeps.engine.ray_private import free_by_node

        free = free_by_node()
        return [node for node in self.holding() if self._holds(_sized(free.get(node.id, {}), node.id, node.host))]

    def _is_fit(self, node: Mapping[str, Any]) -> bool:
        return bool(node["Alive"]) and node["NodeID"] not in self._barred

    def _holds(self, node: Node) -> bool:
        return num_workers_on(node, on_gpu=self.on_gpu) >= self.num_workers


def check_holding(cluster: ClusterNodes, where: str) -> int:
    """How many nodes can hold a leg. Raises NoCluster if none can, or if two would give legs the same GPU."""
    holding = cluster.holding()
    if not holding:
        raise NoCluster(
            f"--parallel runs each leg on one node, and no node of {where} holds its {cluster.num_workers} workers; "
            f"use fewer with --num-workers (same total batch size), or leave --parallel out"
        )
    if cluster.on_gpu:
        _check_own_gpus(holding, where)
    return len(holding)


def _check_own_gpus(holding: Sequence[Node], where: str) -> None:
    by_host: dict[str, list[Node]] = {}
    for node in holding:
        by_host.setdefault(node.host, []).append(node)
    for host, nodes in by_host.items():
        seen = [gpu for node in nodes for gpu in on_node(node.id, visible_ids)] if len(nodes) > 1 else []
        if len(set(seen)) < len(seen):
            raise NoCluster(
                f"{len(nodes)} nodes of {where} are on {host} and see the same GPUs, so legs side by side would share "
                f"them; start each node with its own CUDA_VISIBLE_DEVICES"
            )


def _node(node: Mapping[str, Any]) -> Node:
    return _sized(node["Resources"], node["NodeID"], node["NodeManagerHostname"])


def _sized(resources: Mapping[str, float], id: str, host: str) -> Node:
    return Node(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)), id, host)


def check_nodes(uri: str) -> None:
    """Asks all nodes that can run something. Raises NoCluster naming those without the experiment."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    names = [f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})" for node in nodes]
    reasons = [_ask(node["NodeID"], uri) for node in nodes]
    check_answers(uri, list(zip(names, reasons, strict=True)))


def _ask(node_id: str, uri: str) -> str | None:
    try:
        return on_node(node_id, what_is_missing, uri)
    except Exception as error:  # whatever keeps a node from answering would keep it from training
        return str(error).strip().rpartition("\n")[2]


def what_is_missing(uri: str) -> str | None:
    """In a process of the node: why the experiment cannot be run from here; None if it can."""
    store, probe = Store(uri), f"probe_{secrets.token_hex(8)}"
    try:
        if not store.exists("manifest.json"):
            return "it holds no manifest.json there"
        store.write(probe, b"")
        store.delete(probe)
    except OSError as error:
        return str(error)
    return None


def check_answers(uri: str, found: Sequence[tuple[str, str | None]]) -> None:
    """Raises NoCluster where a node, by its name, has answered with a reason."""
    without = [f"{name}: {reason}" for name, reason in found if reason is not None]
    if without:
        raise NoCluster(
            f"not every node of the cluster reaches {uri} ({'; '.join(without)}). All nodes need the same version of "
            f"this project, and with --storage a folder that all of them share, or s3://..."
        )
