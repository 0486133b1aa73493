"""Which leg starts when, on which node, as Ray Tune asks for them: without a cluster."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.search import Searcher

from sweeps.engine.cluster.places import Node
from sweeps.engine.trials.blocks import BlockOrder

NODES = [Node(2, 0, id=id, host=id) for id in "abcd"]


class Machines:
    """A cluster whose nodes die, and a storage that knows which legs are done."""

    def __init__(self, num_nodes: int, num_blocks: int, num_legs: int) -> None:
        self.living = NODES[:num_nodes]
        self.left = {block: [f"leg{i}-b{block}" for i in range(num_legs)] for block in range(1, num_blocks + 1)}
        self.ended: list[str] = []

    def free(self) -> Sequence[Node]:
        return self.living

    def lives(self, node: Node) -> bool:
        return node in self.living

    def bind(self, block: int, free: Sequence[Node]) -> tuple[Node, list[dict[str, Any]]]:
        return free[0], [{"trial": name, "block": block, "node": free[0].id} for name in self.left[block]]

    def order(self, most: int | None) -> BlockOrder:
        return BlockOrder(list(self.left), most, self, self.bind, lambda task: self.ended.append(task["trial"]))


def test_every_free_node_gets_a_block_and_a_block_gives_one_leg_at_a_time() -> None:
    machines = Machines(num_nodes=2, num_blocks=3, num_legs=2)
    order = machines.order(None)
    assert [order.suggest("t1")["trial"], order.suggest("t2")["trial"]] == ["leg0-b1", "leg0-b2"]
    assert order.suggest("t3") is None
    order.on_trial_complete("t2")
    second = order.suggest("t3")
    assert (second["trial"], second["node"]) == ("leg1-b2", "b")
    order.on_trial_complete("t3")
    assert order.suggest("t4")["trial"] == "leg0-b3"
    for trial in ("t1", "t4"):
        order.on_trial_complete(trial)
    assert [order.suggest("t5")["trial"], order.suggest("t6")["trial"]] == ["leg1-b1", "leg1-b3"]
    assert order.has_more
    for trial in ("t5", "t6"):
        order.on_trial_complete(trial)
    assert not order.has_more
    assert order.suggest("t7") == Searcher.FINISHED


def test_a_block_on_a_lost_node_is_given_back_with_all_of_its_legs() -> None:
    machines = Machines(num_nodes=2, num_blocks=2, num_legs=2)
    order = machines.order(None)
    for trial in ("t1", "t2"):
        order.suggest(trial)
    machines.living = NODES[1:2]
    order.on_trial_complete("t1", error=True)
    assert order.suggest("t3") is None, "the other node has a block"
    for trial, expected in (("t2", "leg1-b2"), ("t3", "leg0-b1"), ("t4", "leg1-b1")):
        order.on_trial_complete(trial)
        task = order.suggest({"t2": "t3", "t3": "t4", "t4": "t5"}[trial])
        assert (task["trial"], task["node"]) == (expected, "b")


def test_a_number_bounds_the_blocks_and_a_stop_ends_the_order() -> None:
    machines = Machines(num_nodes=3, num_blocks=3, num_legs=1)
    order = machines.order(1)
    assert order.suggest("t1")["trial"] == "leg0-b1"
    assert order.suggest("t2") is None
    assert not order.has_idle_node
    order.stop()
    order.on_trial_complete("t1")
    assert not order.has_more
    assert order.suggest("t2") == Searcher.FINISHED


def test_blocks_that_are_added_follow_when_a_node_is_idle() -> None:
    machines = Machines(num_nodes=2, num_blocks=1, num_legs=1)
    order = machines.order(None)
    assert not order.has_idle_node, "a block waits"
    order.suggest("t1")
    assert order.has_idle_node
    machines.left[2] = ["leg0-b2"]
    order.add([1, 2])
    assert order.suggest("t2")["trial"] == "leg0-b2"


def test_a_block_waits_for_a_node_while_nothing_runs() -> None:
    machines = Machines(num_nodes=1, num_blocks=2, num_legs=1)
    order = machines.order(None)
    order.suggest("t1")
    assert not order.waits_for_node, "what waits for a leg that runs is no news"
    machines.living = []
    order.on_trial_complete("t1")
    assert order.suggest("t2") is None
    assert order.waits_for_node
    machines.living = NODES[:1]
    order.suggest("t3")
    assert not order.waits_for_node


def test_a_block_without_open_legs_takes_no_node() -> None:
    machines = Machines(num_nodes=1, num_blocks=2, num_legs=1)
    machines.left[1] = []
    assert machines.order(None).suggest("t1")["trial"] == "leg0-b2"


@settings(max_examples=200)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.one_of(st.none(), st.integers(1, 4)), st.data())
def test_legs_of_a_block_never_overlap_and_a_node_has_one_at_a_time(
    num_nodes: int, num_blocks: int, num_legs: int, most: int | None, data: st.DataObject
) -> None:
    """Legs end in any order, nodes die; as long as a node lives, all legs end on a node of their whole block."""
    machines = Machines(num_nodes, num_blocks, num_legs)
    order = machines.order(most)
    running: dict[str, dict[str, Any]] = {}
    ran_on: dict[str, str] = {}
    for number in range(200):
        task = order.suggest(f"t{number}")
        if task == Searcher.FINISHED:
            break
        if task is not None:
            running[f"t{number}"] = task
            assert len({each["block"] for each in running.values()}) == len(running) <= (most or 4)
            assert len({each["node"] for each in running.values()}) == len(running)
            continue
        ended = data.draw(st.sampled_from(sorted(running)))
        task = running.pop(ended)
        if len(machines.living) > 1 and data.draw(st.booleans()):
            machines.living = [node for node in machines.living if node.id != task["node"]]
        else:
            ran_on[task["trial"]] = task["node"]
        order.on_trial_complete(ended)
    assert not order.has_more
    assert sorted(ran_on) == sorted(name for names in machines.left.values() for name in names)
    for names in machines.left.values():
        assert len({ran_on[name] for name in names}) == 1
