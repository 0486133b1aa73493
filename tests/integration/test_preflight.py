"""A preflight on a real private Ray cluster: a leg that fails in it is told at once, shown, and still run for real."""

from pathlib import Path

import pytest

from nanochat.config import TrainConfig, with_overrides
from nanochat.recipes import d12_moe, shrink_to_tiny
from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import Event, LegStarted, PreflightEnded
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.results.report.build import refresh
from sweeps.spec import Axis, Sweep, TailWindow
from sweeps.spec.plan import make_plan
from tests.helpers.toy import Fault, toy_trainer

pytestmark = pytest.mark.integration

LEGS = ("sound", "broken")


def leg_name(config: TrainConfig) -> str:
    return LEGS[config.run.log_every - 1]


def test_every_leg_has_a_preflight_and_one_that_fails_there_still_runs(tmp_path: Path) -> None:
    base = with_overrides(shrink_to_tiny(d12_moe(num_steps=12)), {"schedule.num_steps": 12})
    sweep = Sweep(
        name="tried",
        base=base,
        num_workers=1,
        axes=[Axis("run.log_every", [1, 2])],
        baseline={"run.log_every": 1},
        window=TailWindow(num_steps=3),
        leg_name=leg_name,
    )
    manifest = new_manifest(make_plan(sweep), id="tried", argv=["test"], settings={})
    experiment = Experiment.create(str(tmp_path), "tried", manifest)
    events: list[Event] = []
    train = toy_trainer(leg_name, {"broken": Fault.CANNOT_START})
    context = LaunchContext(on_event=events.append, refresh=refresh, train=train, preflight=True)
    outcome = run_experiment(experiment, context)
    told = [event for event in events if isinstance(event, PreflightEnded | LegStarted)]
    assert [(type(event).__name__, event.at.trial) for event in told] == [
        ("PreflightEnded", "sound-b1"),
        ("PreflightEnded", "broken-b1"),
        ("LegStarted", "sound-b1"),
        ("LegStarted", "broken-b1"),
    ]
    assert "ValueError: the toy cannot start" in str(told[1])
    assert (outcome.completed, outcome.failed) == (("sound-b1",), ("broken-b1",))
    assert not list(Path(experiment.uri, "preflight").glob("trials/*/train/a000/step_*"))
    report = experiment.store.read("report/report.md").decode()
    assert "| `broken` | failed | - | - | ValueError: the toy cannot start |" in report
