"""The nodes of a cluster, and whether every one reaches the storage of the experiment that is about to run there.

A leg's driver and ranks can be placed on any node. One whose folder of the same name is another folder would write rows
and checkpoints that no node finds, so a launch is rejected before that.
"""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import secrets
from collections.abc import Sequence

from sweeps.engine.cluster.on_node import on_node
from sweeps.engine.cluster.places import Node
from sweeps.records.store import Store
from sweeps.spec.errors import NoCluster


def living_nodes() -> tuple[Node, ...]:
    """The nodes that live now."""
    import ray

    return tuple(
        Node(
            num_cpus=float(node["Resources"].get("CPU", 0)),
            num_gpus=float(node["Resources"].get("GPU", 0)),
            id=node["NodeID"],
            host=node["NodeManagerHostname"],
        )
        for node in ray.nodes()
        if node["Alive"]
    )


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
