"""Blocks side by side on two Ray nodes of this machine, with a toy as the trainer: each block on its own node."""

from pathlib import Path

import pytest

from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import BlockBound, Event, LegCompleted
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


def test_blocks_are_added_while_another_one_runs_and_a_node_is_free(tmp_path: Path) -> None:
    """As `--blocks auto` does: two blocks may be ahead of the complete ones, until there are three."""
    experiment = toy_experiment(tmp_path, num_legs=1)
    complete_when_added: list[int] = []

    def grow_ahead(grown: Experiment, ahead: int) -> bool:
        num_complete = sum(record.result() is not None for record in grown.trials())
        if grown.plan.num_blocks == 3 or num_complete + ahead <= grown.plan.num_blocks:
            return False
        complete_when_added.append(num_complete)
        grown.grow(grown.plan.num_blocks + 1)
        return True

    events: list[Event] = []
    with nodes(1, 1) as cluster:
        context = LaunchContext(
            on_event=events.append,
            refresh=lambda e: None,
            grow_ahead=grow_ahead,
            address=cluster.address,
            parallel="auto",
            train=toy_trainer(leg_name, {"leg1": Fault.SLOW}),
        )
        outcome = run_experiment(experiment, context)
    told = "\n".join(map(str, events))
    assert outcome.exit_code == 0, told
    assert outcome.completed == ("leg1-b1", "leg1-b2", "leg1-b3"), told
    assert complete_when_added == [0, 1], told
    blocks = attempts_by_block(experiment)
    assert overlap(blocks[1][0], blocks[2][0])
    assert {event.at.trial for event in events if isinstance(event, LegCompleted)} == set(outcome.completed)
