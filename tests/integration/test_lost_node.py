"""A node that dies in the middle of its block, and a stop and a restore in the middle: on Ray nodes of this machine."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.engine.launch import LaunchResult, run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import BlockBound, Event, LegCheckpointed, LegCompleted, LegTraining
from sweeps.records.experiment import Experiment
from tests.helpers.nodes import leg_name, nodes, toy_experiment
from tests.helpers.toy import Fault, toy_trainer

pytestmark = pytest.mark.integration


def run(experiment: Experiment, address: str, on_event: Callable[[Event], None], **words: Any) -> LaunchResult:
    slow: dict[str, Fault] = {"leg1": Fault.SLOW, "leg2": Fault.SLOW}
    context = LaunchContext(
        on_event=on_event, refresh=lambda e: None, address=address, train=toy_trainer(leg_name, slow), **words
    )
    return run_experiment(experiment, context)


def node_of(experiment: Experiment, trial: str) -> str | None:
    return experiment.trial(trial).attempts()[-1].node_id


def check_whole(experiment: Experiment) -> None:
    """Each trial has each step once, and what counts of a block ran on one node."""
    num_steps = experiment.plan.trials[0].config.schedule.num_steps or 0
    by_block: dict[int, set[str | None]] = {}
    for trial, record in zip(experiment.plan.trials, experiment.trials(), strict=True):
        rows = record.rows()
        assert [row.step for row in rows] == list(range(num_steps)), trial.name
        attempts = {attempt.number: attempt.node_id for attempt in record.attempts()}
        by_block.setdefault(trial.block, set()).add(attempts[rows[-1].attempt])
    assert all(len(found) == 1 for found in by_block.values()), by_block


def test_a_block_that_lost_its_node_runs_whole_on_the_other(tmp_path: Path) -> None:
    """The node without the launcher dies while its block's second leg trains; the first had completed there."""
    experiment = toy_experiment(tmp_path, num_legs=2, num_blocks=2, num_steps=80)
    events: list[Event] = []
    with nodes(2, 2) as cluster:
        (lost,) = cluster.worker_nodes  # the head is not among them
        blocks: dict[str, int] = {}

        def on_event(event: Event) -> None:
            events.append(event)
            if isinstance(event, BlockBound):
                blocks.setdefault(event.node_id, event.block)
            if isinstance(event, LegCheckpointed) and lost in cluster.worker_nodes:
                block = blocks[lost.node_id]
                last = [trial.name for trial in experiment.plan.trials if trial.block == block][-1]
                if event.at.trial == last:
                    cluster.remove_node(lost, allow_graceful=False)

        outcome = run(experiment, cluster.address, on_event, parallel=2)
    told = "\n".join(map(str, events))
    assert outcome.exit_code == 0, told
    check_whole(experiment)
    moves = experiment.moves()
    assert len(moves) == 1, told
    (first, last) = [trial.name for trial in experiment.plan.trials if trial.block == moves[0].block]
    assert moves[0].again == [first]
    assert node_of(experiment, first) == node_of(experiment, last) != lost.node_id
    assert [attempt.end for attempt in experiment.trial(first).attempts()] == ["completed", "completed"]
    assert sum(isinstance(event, LegCompleted) for event in events) == 5, told


def test_a_stop_in_the_middle_of_two_blocks_is_restored_on_their_nodes(tmp_path: Path) -> None:
    """Legs are so long that both still train when the request is seen, on a busy machine too."""
    experiment = toy_experiment(tmp_path, num_legs=1, num_blocks=2, num_steps=400)
    training: set[str] = set()

    def stop_when_both_train(event: Event) -> None:
        if isinstance(event, LegTraining):
            training.add(event.at.trial)
            if len(training) == 2:
                threading.Timer(1.0, experiment.request_stop, ["enough"]).start()

    with nodes(2, 2) as cluster:
        stopped = run(experiment, cluster.address, stop_when_both_train, parallel="auto")
        assert stopped.exit_code == 130
        assert {experiment.trial(name).attempts()[-1].end for name in training} == {"stopped"}
        before = {name: node_of(experiment, name) for name in training}
        assert len(set(before.values())) == 2
        restored = run(experiment, cluster.address, lambda event: None, parallel="auto")
    assert restored.exit_code == 0
    check_whole(experiment)
    assert {name: node_of(experiment, name) for name in training} == before
    assert not experiment.moves()
