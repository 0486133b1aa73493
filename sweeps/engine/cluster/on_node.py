"""Runs a function on one node of the cluster: what only that machine's kernel, disk or driver can answer or do."""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

NODE_S = 120.0  # for a node to do what it is asked, the start of a Ray worker there included


def on_node(node_id: str, action: Callable[..., T], *arguments: object) -> T:
    """The result of the action on a node: directly if that is this one, else as a Ray task that needs no CPU.

    Raises what the action raises, and Ray's errors if the node is gone or does not answer within NODE_S.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if node_id == ray.get_runtime_context().get_node_id():
        return action(*arguments)
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = ray.remote(action).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    return ray.get(task.remote(*arguments), timeout=NODE_S)
