"""Where a leg fits: on one node if one holds it, with its driver kept off the CPU that the last worker needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.engine.cluster.places import LegPlacement, Node, num_places, num_workers_on, placement


@pytest.mark.parametrize(
    ("nodes", "on_cpu", "on_gpu"),
    [
        ([(2.0, 0.0)], 1, 0),  # the driver takes a hundredth of a CPU
        ([(2.01, 0.0)], 2, 0),
        ([(3.0, 2.0)], 2, 2),
        ([(2.0, 8.0)], 1, 1),
        ([(2.0, 0.0), (1.0, 1.0)], 2, 1),  # the driver next to a worker without a GPU
        ([(2.5, 2.0), (2.0, 2.0)], 4, 4),  # the driver on the half CPU
        ([(0.5, 4.0), (0.5, 4.0)], 0, 0),  # CPUs of several nodes do not add up to one
        ([(0.0, 8.0)], 0, 0),
        ([], 0, 0),
    ],
)
def test_the_places_for_workers_are_those_beside_a_driver(
    nodes: list[tuple[float, float]], on_cpu: int, on_gpu: int
) -> None:
    named = [Node(*numbers) for numbers in nodes]
    assert num_places(named, on_gpu=False) == on_cpu
    assert num_places(named, on_gpu=True) == on_gpu


def nodes(*cpus: float) -> list[Node]:
    return [Node(number, 0.0, id=name) for number, name in zip(cpus, "abcd", strict=False)]


@pytest.mark.parametrize(
    ("found", "num_workers", "expected"),
    [
        (nodes(4, 4), 4, LegPlacement("STRICT_PACK")),  # the driver goes to the node that the leg does not
        (nodes(5, 2), 4, LegPlacement("STRICT_PACK")),
        (nodes(4, 2), 4, LegPlacement("STRICT_PACK", ("b",))),  # next to the driver a has place for three
        (nodes(4, 2, 1), 4, LegPlacement("STRICT_PACK", ("b", "c"))),
        (nodes(4, 0, 1), 4, LegPlacement("STRICT_PACK", ("c",))),  # a node without CPUs holds no driver
        (nodes(3, 2), 4, LegPlacement("PACK")),  # on no node alone
        (nodes(2.5, 2), 4, LegPlacement("PACK", ("a",))),
        ([], 4, LegPlacement("PACK")),  # this machine alone, whose CPUs are declared by need
    ],
)
def test_a_leg_is_packed_onto_a_node_that_holds_it(found: list[Node], num_workers: int, expected: LegPlacement) -> None:
    assert placement(found, num_workers, on_gpu=False) == expected


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(1, 12))
def test_whatever_has_a_place_gets_one(halves: list[int], num_workers: int) -> None:
    """A driver on any node that is allowed leaves room: on one node if packed, on all together else."""
    found = [Node(number / 2, 0.0, id=str(i)) for i, number in enumerate(halves)]
    if num_workers > num_places(found, on_gpu=False):
        return
    place = placement(found, num_workers, on_gpu=False)
    allowed = place.driver_nodes or [node.id for node in found if node.num_cpus]
    for driver in allowed:
        left = [num_workers_on(node, on_gpu=False, with_driver=node.id == driver) for node in found]
        assert (max(left) if place.strategy == "STRICT_PACK" else sum(left)) >= num_workers
