"""An experiment whose gates are undecided grows by blocks in one launch, and a restore adds what it is asked for."""

from pathlib import Path

import pytest

from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import Event, ExperimentStarted
from sweeps.records.experiment import Experiment
from tests.helpers.toy import toy_trainer
from tests.helpers.two_legs import leg_name, two_leg_experiment

pytestmark = pytest.mark.integration


def test_blocks_are_added_and_run_until_the_verb_wants_no_more(tmp_path: Path) -> None:
    experiment = two_leg_experiment(tmp_path)
    events: list[Event] = []
    asked: list[int] = []

    def grow(grown: Experiment) -> bool:
        asked.append(grown.plan.num_blocks)
        if grown.plan.num_blocks == 3:
            return False
        grown.grow(grown.plan.num_blocks + 1)
        return True

    outcome = run_experiment(
        experiment,
        LaunchContext(on_event=events.append, refresh=lambda e: None, grow=grow, train=toy_trainer(leg_name, {})),
    )
    assert (outcome.exit_code, asked) == (0, [1, 2, 3])
    assert sorted(outcome.completed) == sorted(f"{leg}-b{block}" for leg in ("one", "two") for block in (1, 2, 3))
    assert sum(isinstance(event, ExperimentStarted) for event in events) == 3
    assert Experiment.open(experiment.uri).plan.num_blocks == 3
