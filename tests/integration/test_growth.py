"""An experiment whose gates are undecided grows by blocks in one launch, and a restore adds what it is asked for."""

from pathlib import Path

import pytest

from nanochat.config import TrainConfig, with_overrides
from nanochat.recipes import d12_moe, shrink_to_tiny
from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import Event, ExperimentStarted
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.spec import Axis, Sweep, TailWindow
from sweeps.spec.plan import make_plan
from tests.helpers.toy import toy_trainer

pytestmark = pytest.mark.integration


def leg_name(config: TrainConfig) -> str:
    return f"every{config.run.log_every}"


def test_blocks_are_added_and_run_until_the_verb_wants_no_more(tmp_path: Path) -> None:
    sweep = Sweep(
        name="growing",
        base=with_overrides(shrink_to_tiny(d12_moe(num_steps=12)), {"schedule.num_steps": 12}),
        num_workers=1,
        axes=[Axis("run.log_every", [1, 2])],
        baseline={"run.log_every": 1},
        window=TailWindow(num_steps=4),
        leg_name=leg_name,
    )
    manifest = new_manifest(make_plan(sweep), id="growing", argv=["test"], settings={})
    experiment = Experiment.create(str(tmp_path), "growing", manifest)
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
    assert sorted(outcome.completed) == sorted(f"every{leg}-b{block}" for leg in (1, 2) for block in (1, 2, 3))
    assert sum(isinstance(event, ExperimentStarted) for event in events) == 3
    assert Experiment.open(experiment.uri).plan.num_blocks == 3
