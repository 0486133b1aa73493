"""Whether every node of a cluster reaches the storage of the experiment that is about to run there.

A leg's driver and ranks may be placed on any node. One whose folder of the same name is another folder would write rows
and checkpoints that nobody finds, so a launch is refused before that.
"""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import secrets
from collections.abc import Mapping

from sweeps.records.store import Store
from sweeps.spec.errors import NoCluster

ANSWER_S = 60.0


def check_nodes(uri: str) -> None:
    """Asks all nodes that can run something, but the launcher's own. Raises NoCluster naming those without it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) > 0 and n["NodeID"] != here]
    ask = ray.remote(num_cpus=0, max_retries=0)(what_is_missing)
    asked = {
        f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})": ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(uri)
        for node in nodes
    }
    if not asked:
        return
    answered, _ = ray.wait([*asked.values()], num_returns=len(asked), timeout=ANSWER_S)
    found: dict[str, str | None] = {}
    for name, answer in asked.items():
        if answer not in answered:
            found[name] = f"it did not answer in {ANSWER_S:.0f} s"
            continue
        try:
            found[name] = ray.get(answer)
        except Exception as error:  # whatever keeps a node from answering would keep it from training
            found[name] = str(error).strip().rpartition("\n")[2]
    check_answers(uri, found)


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


def check_answers(uri: str, found: Mapping[str, str | None]) -> None:
    """Raises NoCluster where a node has answered with a reason."""
    without = [f"{name}: {reason}" for name, reason in found.items() if reason is not None]
    if without:
        raise NoCluster(
            f"not every node of the cluster reaches {uri} ({'; '.join(without)}). All nodes need the same version of "
            f"this project, and with --storage a folder that all of them share, or s3://..."
        )
