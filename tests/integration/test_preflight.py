"""A preflight on a real private Ray cluster: a leg that fails in it is told at once, shown, and still run for real."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import ray.cloudpickle

from nanochat.config import with_overrides
from nanochat.recipes import d12_moe, shrink_to_tiny
from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import Event, LegStarted, PreflightEnded
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.results.report.build import refresh
from sweeps.spec import Axis, Sweep, TailWindow
from sweeps.spec.plan import make_plan

pytestmark = pytest.mark.integration

TOY = Path(__file__).parent.parent / "sweeps" / "engine" / "toy.py"
NAMES = {1: "sound", 31: "broken"}


def load_toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy_of_preflight", TOY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    ray.cloudpickle.register_pickle_by_value(module)
    return module


def test_every_leg_has_a_preflight_and_one_that_fails_there_still_runs(tmp_path: Path) -> None:
    base = with_overrides(shrink_to_tiny(d12_moe(num_steps=12)), {"schedule.num_steps": 12})
    sweep = Sweep(
        name="tried",
        base=base,
        num_workers=1,
        axes=[Axis("run.log_every", list(NAMES))],
        baseline={"run.log_every": 1},
        window=TailWindow(num_steps=3),
        leg_name=lambda config: NAMES[config.run.log_every],
    )
    manifest = new_manifest(make_plan(sweep), id="tried", argv=["test"], settings={})
    experiment = Experiment.create(str(tmp_path), "tried", manifest)
    events: list[Event] = []
    context = LaunchContext(on_event=events.append, refresh=refresh, train=load_toy().toy_train, preflight=True)
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
