"""Blocks side by side on a real S3 server at 10 ms a request: one of the two nodes dies while both train."""

import pytest

from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import BlockBound, Event, LegAdvanced
from tests.helpers.nodes import leg_name, nodes, toy_experiment
from tests.helpers.s3_server import s3_server, use
from tests.helpers.toy import Fault, toy_trainer

pytestmark = [pytest.mark.integration, pytest.mark.long]
NUM_STEPS = 120


def test_the_block_of_a_lost_node_resumes_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    with s3_server() as server:
        use(server, monkeypatch)
        server.make_bucket("bucket")
        server.delay_s = 0.01
        experiment = toy_experiment("s3://bucket/storage", num_legs=1, num_blocks=2, num_steps=NUM_STEPS)
        with nodes(1, 1) as cluster:
            (lost,) = cluster.worker_nodes
            on_lost: list[int] = []

            def on_event(event: Event) -> None:
                events.append(event)
                if isinstance(event, BlockBound) and event.node_id == lost.node_id:
                    on_lost.append(event.block)
                is_far = isinstance(event, LegAdvanced) and event.at.trial == f"leg1-b{on_lost[0]}" and event.step >= 20
                if is_far and lost in cluster.worker_nodes:
                    cluster.remove_node(lost, allow_graceful=False)

            context = LaunchContext(
                on_event=on_event,
                refresh=lambda e: None,
                address=cluster.address,
                parallel="auto",
                train=toy_trainer(leg_name, {"leg1": Fault.SLOW}),
            )
            outcome = run_experiment(experiment, context)
        told = "\n".join(map(str, events))
        assert outcome.exit_code == 0, told
        for record in experiment.trials():
            assert [row.step for row in record.rows()] == list(range(NUM_STEPS)), told
        assert [(move.block, move.again) for move in experiment.moves()] == [(on_lost[0], [])], told
        move = experiment.moves()[0]
        first, second = experiment.trial(f"leg1-b{on_lost[0]}").attempts()
        assert (first.node_id, first.end) == (lost.node_id, "interrupted")
        assert second.node_id == move.node_id != lost.node_id
        assert second.first_step is not None
        assert second.first_step >= 10, "it resumes from a checkpoint"
