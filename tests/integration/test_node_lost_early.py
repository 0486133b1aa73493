"""A node that dies while a leg starts on it: its reservation or its ranks are on their way, no step is taken yet."""

import threading
from pathlib import Path

import pytest

from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import BlockBound, Event
from tests.helpers.nodes import leg_name, nodes, toy_experiment
from tests.helpers.toy import toy_trainer

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.mark.parametrize("after_s", [0.0, 4.0])
def test_a_block_whose_node_dies_at_its_start_runs_on_the_other(tmp_path: Path, after_s: float) -> None:
    experiment = toy_experiment(tmp_path, num_legs=1, num_blocks=2)
    events: list[Event] = []
    with nodes(1, 1) as cluster:
        (lost,) = cluster.worker_nodes

        def on_event(event: Event) -> None:
            events.append(event)
            if isinstance(event, BlockBound) and event.node_id == lost.node_id:
                threading.Timer(after_s, cluster.remove_node, [lost], {"allow_graceful": False}).start()

        context = LaunchContext(
            on_event=on_event,
            refresh=lambda e: None,
            address=cluster.address,
            parallel="auto",
            train=toy_trainer(leg_name, {}),
        )
        outcome = run_experiment(experiment, context)
    assert outcome.exit_code == 0, "\n".join(map(str, events))
    assert {record.attempts()[-1].node_id for record in experiment.trials()} != {lost.node_id}
    assert all(record.attempts()[-1].node_id != lost.node_id for record in experiment.trials())
