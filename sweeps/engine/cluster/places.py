"""Where a leg fits: on which nodes its workers and its driver have a place.

Workers of a leg belong on one node: they exchange gradients all the time, and a leg that is spread over nodes measures
the network between them. So a leg that fits on a node is packed onto one, strictly. Its driver takes a hundredth of a
CPU, which can be the one that the last worker needs: the driver is kept off such a node.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

DRIVER_CPUS = 0.01  # what a leg's driver reserves; Ray Tune rejects nothing at all
NODE_LABEL = "ray.io/node-id"  # which Ray gives to every node


class Node(NamedTuple):
    """What one node of a cluster has."""

    num_cpus: float
    num_gpus: float
    id: str = ""  # Ray's
    host: str = ""


@dataclass(frozen=True)
class LegPlacement:
    """How Ray is to place a leg."""

    strategy: Literal["STRICT_PACK", "PACK"] = "PACK"
    driver_nodes: tuple[str, ...] = ()  # the ids of those that the driver may be on; none: any


def num_workers_on(node: Node, *, on_gpu: bool, with_driver: bool = False) -> int:
    """How many workers fit on a node: each takes a whole CPU, with `on_gpu` a whole GPU as well."""
    num_cpus = node[0] - (DRIVER_CPUS if with_driver else 0)
    whole = int(round(num_cpus, 4))  # Ray counts in ten-thousandths
    return max(0, min(whole, int(round(node[1], 4))) if on_gpu else whole)


def num_places(nodes: Sequence[Node], *, on_gpu: bool) -> int:
    """How many workers fit on nodes, next to the driver of a leg, which needs a place too."""
    counts = [_with_driver_on(nodes, place, on_gpu) for place in range(len(nodes)) if nodes[place][0] >= DRIVER_CPUS]
    return max(map(sum, counts), default=0)


def placement(nodes: Sequence[Node], num_workers: int, *, on_gpu: bool) -> LegPlacement:
    """On one node if the leg fits on one wherever its driver can be kept, else spread over nodes."""
    packed = _driver_places(nodes, on_gpu, lambda counts: max(counts) >= num_workers)
    if packed is not None:
        return LegPlacement("STRICT_PACK", packed)
    return LegPlacement("PACK", _driver_places(nodes, on_gpu, lambda counts: sum(counts) >= num_workers) or ())


def _driver_places(
    nodes: Sequence[Node], on_gpu: bool, suffices: Callable[[list[int]], bool]
) -> tuple[str, ...] | None:
    """The nodes where the driver leaves enough places; () if that is all of them, None if there is no such node."""
    possible = [place for place in range(len(nodes)) if nodes[place][0] >= DRIVER_CPUS]
    good = [place for place in possible if suffices(_with_driver_on(nodes, place, on_gpu))]
    if not good:
        return None
    return () if len(good) == len(possible) else tuple(nodes[place].id for place in good)


def _with_driver_on(nodes: Sequence[Node], driver: int, on_gpu: bool) -> list[int]:
    return [num_workers_on(node, on_gpu=on_gpu, with_driver=i == driver) for i, node in enumerate(nodes)]


def nodes_in_words(nodes: Sequence[Node]) -> str:
    """The sizes of the first few, as in "nodes with 4 CPUs and 1 GPUs, 2 CPUs"."""
    shown = [f"{node[0]:g} CPUs" + (f" and {node[1]:g} GPUs" if node[1] else "") for node in nodes[:4]]
    return "nodes with " + ", ".join(shown) + (", ..." if len(nodes) > 4 else "")
