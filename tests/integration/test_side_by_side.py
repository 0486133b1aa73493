"""Blocks side by side on two Ray nodes of this machine, with a toy as the trainer: each block on its own node."""

from pathlib import Path

import pytest

from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import BlockBound, Event
from sweeps.records.documents import AttemptRecord
from sweeps.records.experiment import Experiment
from tests.helpers.nodes import leg_name, nodes, toy_experiment
from tests.helpers.toy import Fault, toy_trainer

pytestmark = pytest.mark.integration


def attempts_by_block(experiment: Experiment) -> dict[int, list[AttemptRecord]]:
    """All attempts of each block, by their start."""
    found: dict[int, list[AttemptRecord]] = {}
    for trial, record in zip(experiment.plan.trials, experiment.trials(), strict=True):
        found.setdefault(trial.block, []).extend(record.attempts())
    return {block: sorted(attempts, key=lambda a: a.started_utc) for block, attempts in found.items()}


def overlap(one: AttemptRecord, other: AttemptRecord) -> bool:
    ends = [one.ended_utc or "", other.ended_utc or ""]
    return one.started_utc < ends[1] and other.started_utc < ends[0]


def test_blocks_run_side_by_side_and_their_legs_one_after_the_other(tmp_path: Path) -> None:
    """Legs of two workers fill a node of two CPUs, which leaves nothing for a driver."""
    experiment = toy_experiment(tmp_path, num_legs=2, num_blocks=3, num_workers=2)
    events: list[Event] = []
    with nodes(2, 2) as cluster:
        context = LaunchContext(
            on_event=events.append,
            refresh=lambda e: None,
            address=cluster.address,
            parallel="auto",
            train=toy_trainer(leg_name, {"leg1": Fault.SLOW}),
        )
        outcome = run_experiment(experiment, context)
    assert outcome.exit_code == 0, "\n".join(map(str, events))
    blocks = attempts_by_block(experiment)
    assert [len({attempt.node_id for attempt in attempts}) for attempts in blocks.values()] == [1, 1, 1]
    assert blocks[1][0].node_id != blocks[2][0].node_id
    assert any(overlap(one, other) for one in blocks[1] for other in blocks[2])
    assert not any(overlap(*attempts) for attempts in blocks.values())
    assert [event.block for event in events if isinstance(event, BlockBound)] == [1, 2, 3]
