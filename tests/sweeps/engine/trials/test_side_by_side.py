"""What binding a block to a node does to storage. Real nodes: tests/integration."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import pytest

from sweeps.engine.cluster.nodes import ClusterNodes
from sweeps.engine.cluster.places import Node
from sweeps.engine.trials.run import is_open
from sweeps.engine.trials.side_by_side import SideBySide
from sweeps.engine.watching.events import BlockBound, Warned
from sweeps.records.attempts import first_number
from sweeps.records.experiment import Experiment

LOST, OTHER = Node(2, 0, id="aa" * 28, host="one"), Node(2, 0, id="bb" * 28, host="two")


class TwoNodes:
    """A cluster of which one node has died."""

    def __init__(self) -> None:
        self.fit = {LOST.id: False, OTHER.id: True}

    def known(self) -> dict[str, tuple[Node, bool]]:
        return {node.id: (node, self.fit[node.id]) for node in (LOST, OTHER)}

    def lives(self, node: Node) -> bool:
        return self.fit[node.id]

    def holding(self) -> list[Node]:
        return [node for node, is_fit in self.known().values() if is_fit]

    free = holding

    def bar(self, node_id: str) -> None:
        self.fit[node_id] = False


def side_by_side(experiment: Experiment, nodes: TwoNodes) -> SideBySide:
    return SideBySide(
        experiment,
        "auto",
        cast(ClusterNodes, nodes),
        is_open,
        lambda trial, node: {"trial": trial.name, "node_id": node.id, "node_host": node.host, "tag": 1},
    )


@pytest.fixture
def experiment(make_experiment: Callable[..., Experiment], complete: Callable[..., None]) -> Experiment:
    """The first leg of block 1 has completed on the node that is lost now; it is locked by this process."""
    made = make_experiment(num_blocks=2)
    made.lock()
    first = names(made, 1)[0]
    complete(made, first)
    record = made.trial(first)
    bound: dict[str, Any] = {"node_id": LOST.id, "node_host": LOST.host}
    record.update_attempt(dataclasses.replace(record.attempts()[0], **bound))
    return made


def names(experiment: Experiment, block: int) -> list[str]:
    return [trial.name for trial in experiment.plan.trials if trial.block == block]


def test_a_block_of_a_lost_node_gets_all_of_its_legs_again(experiment: Experiment) -> None:
    side, legs = side_by_side(experiment, TwoNodes()), names(experiment, 1)
    bound = side.bind(1, [OTHER])
    assert bound is not None
    assert (bound[0], [task["trial"] for task in bound[1]]) == (OTHER, legs)
    assert [move.again for move in experiment.moves()] == [[legs[0]]]
    assert experiment.trial(legs[0]).result() is None
    ((event, again),) = side.told()
    assert event == BlockBound(block=1, node_id=OTHER.id, host="two", again=(legs[0],), has_moved=True)
    assert again == {legs[0]: 1}
    assert list(side.told()) == []


def test_a_fresh_block_moves_nothing(experiment: Experiment) -> None:
    side = side_by_side(experiment, TwoNodes())
    bound = side.bind(2, [OTHER])
    assert bound is not None
    assert [task["trial"] for task in bound[1]] == names(experiment, 2)
    assert experiment.moves() == []


def test_a_launch_that_was_taken_for_dead_opens_no_completed_leg_again(experiment: Experiment) -> None:
    second = names(experiment, 1)[1]
    record = experiment.trial(second)
    record.start_attempt(num_workers=2, owner_number=experiment.owner_number + 1)
    assert record.attempts()[-1].number == first_number(experiment.owner_number + 1)
    assert side_by_side(experiment, TwoNodes()).bind(1, [OTHER]) is None
    assert experiment.trial(names(experiment, 1)[0]).result() is not None
    assert experiment.moves() == []


def test_a_node_that_a_leg_found_unfit_is_barred_and_the_last_one_ends_the_launch(experiment: Experiment) -> None:
    """The driver of the leg serves the same launch, so both mean the same request."""
    nodes = TwoNodes()
    nodes.fit[LOST.id] = True
    side = side_by_side(experiment, nodes)
    driver = Experiment.open(experiment.uri)
    driver.act_for(experiment.owner_number)
    for node, refusal in ((LOST, None), (OTHER, "GPUs are in use")):
        driver.refuse_on_node(node.id, "GPUs are in use", 69)
        side.ended({"trial": "any", "node_id": node.id, "node_host": node.host, "tag": 1})
        assert not nodes.fit[node.id]
        seen = experiment.refusal()
        assert (None if seen is None else seen.reason) == refusal
    told = [event for event, _ in side.told()]
    assert [isinstance(event, Warned) and "gets no more legs: GPUs are in use" in str(event) for event in told] == [
        True
    ] * 2
