"""What happens to one leg of several side by side stays with it: a failure, an unfit node, a killed driver."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from nanochat.config import TextError, TrainConfig
from nanochat.stats import Hooks, TrainResult
from sweeps.engine.launch import LaunchResult, run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import BlockBound, Event, LegCheckpointed, LegInterrupted, Warned
from sweeps.records.experiment import Experiment
from tests.helpers.nodes import leg_name, nodes, toy_experiment
from tests.helpers.toy import Fault, toy_trainer

pytestmark = pytest.mark.integration
Train = Callable[[TrainConfig, Hooks], TrainResult]


def run(experiment: Experiment, address: str, on_event: Callable[[Event], None], train: Train) -> LaunchResult:
    context = LaunchContext(on_event=on_event, refresh=lambda e: None, address=address, parallel="auto", train=train)
    return run_experiment(experiment, context)


def ends(experiment: Experiment, trial: str) -> list[str | None]:
    return [attempt.end for attempt in experiment.trial(trial).attempts()]


def test_a_node_without_the_text_and_a_leg_that_fails_end_nothing_else(tmp_path: Path) -> None:
    experiment = toy_experiment(tmp_path, num_legs=2, num_blocks=2)
    events: list[Event] = []
    with nodes(1, 1) as cluster:
        (unfit,) = [node.node_id for node in cluster.worker_nodes]
        toy = toy_trainer(leg_name, {"leg1": Fault.SLOW, "leg2": Fault.RAISES})

        def train(config: TrainConfig, hooks: Hooks) -> TrainResult:
            if ray.get_runtime_context().get_node_id() == unfit:
                raise TextError("the text is another one here")
            return toy(config, hooks)

        outcome = run(experiment, cluster.address, events.append, train)
    told = "\n".join(map(str, events))
    assert outcome.exit_code == 5, told
    assert (outcome.completed, outcome.failed) == (("leg1-b1", "leg1-b2"), ("leg2-b1", "leg2-b2")), told
    assert experiment.refusal() is None
    bound = [(event.block, event.node_id == unfit) for event in events if isinstance(event, BlockBound)]
    assert bound[:2] == [(1, False), (2, True)] or bound[:2] == [(1, True), (2, False)]
    assert [is_unfit for _, is_unfit in bound] == [is_unfit for _, is_unfit in bound[:2]] + [False], told
    warnings = [event.message for event in events if isinstance(event, Warned)]
    assert [text for text in warnings if "gets no more legs: the text is another one here" in text] == warnings


def test_a_killed_driver_costs_its_leg_an_attempt_and_the_others_nothing(tmp_path: Path) -> None:
    """Each leg takes a whole node, so its reservation must be freed, and only its."""
    experiment = toy_experiment(tmp_path, num_legs=1, num_blocks=2, num_workers=2)
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, LegCheckpointed) and event.at.trial == "leg1-b1":
            first, *others = experiment.trial("leg1-b1").attempts()
            if not others and first.end is None:
                os.kill(first.pid, signal.SIGKILL)

    with nodes(2, 2) as cluster:
        outcome = run(experiment, cluster.address, on_event, toy_trainer(leg_name, {"leg1": Fault.SLOW}))
    assert outcome.exit_code == 0, "\n".join(map(str, events))
    assert ends(experiment, "leg1-b1") == [None, "completed"]
    assert ends(experiment, "leg1-b2") == ["completed"]
    assert [event.at.trial for event in events if isinstance(event, LegInterrupted)] == ["leg1-b1"]
