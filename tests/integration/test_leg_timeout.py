"""A time limit for legs on a real private Ray cluster: each is stopped with a checkpoint, fails, and can be retried."""

from pathlib import Path

import pytest

from nanochat.config import TrainConfig, with_overrides
from nanochat.recipes import d12_moe, shrink_to_tiny
from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import Event, LegFailed
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.spec import Axis, Sweep, TailWindow
from sweeps.spec.plan import make_plan
from tests.helpers.toy import toy_trainer

pytestmark = pytest.mark.integration

LEGS = ("one", "two")


def leg_name(config: TrainConfig) -> str:
    return LEGS[config.run.log_every - 1]


def test_a_leg_whose_time_is_up_leaves_a_checkpoint_and_the_next_one_runs(tmp_path: Path) -> None:
    sweep = Sweep(
        name="limited",
        base=with_overrides(shrink_to_tiny(d12_moe(num_steps=400)), {"schedule.num_steps": 400}),
        num_workers=1,
        axes=[Axis("run.log_every", [1, 2])],
        baseline={"run.log_every": 1},
        window=TailWindow(num_steps=3),
        leg_name=leg_name,
        leg_timeout="1s",  # over before the ranks have started
    )
    manifest = new_manifest(make_plan(sweep), id="limited", argv=["test"], settings={})
    experiment = Experiment.create(str(tmp_path), "limited", manifest)
    events: list[Event] = []
    context = LaunchContext(on_event=events.append, refresh=lambda e: e.id, train=toy_trainer(leg_name, {}))
    outcome = run_experiment(experiment, context)

    assert (outcome.exit_code, outcome.failed) == (5, ("one-b1", "two-b1"))
    for event, name in zip((e for e in events if isinstance(e, LegFailed)), outcome.failed, strict=True):
        (attempt,) = experiment.trial(name).attempts()
        assert attempt.error is not None
        assert attempt.run_s is not None
        (checkpoint,) = Path(experiment.trial(name).train_uri, "a000").glob("step_*")
        last_step = experiment.trial(name).rows()[-1].step
        assert checkpoint.name == f"step_{last_step + 1:06d}"
        assert attempt.error.message == (
            f"the leg did not end within 1 s (leg_timeout) and was stopped after step {last_step} with a checkpoint; "
            f"a retry resumes it"
        )
        assert str(event).startswith(f"[{event.at.position}/2] {name}: failed: LegTimeout: the leg did not end")
