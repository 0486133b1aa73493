"""A preflight on a real private Ray cluster: a leg that fails in it is told at once, shown, and still run for real."""

from pathlib import Path

import pytest

from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import Event, LegStarted, PreflightEnded
from sweeps.results.report.build import refresh
from tests.helpers.toy import Fault, toy_trainer
from tests.helpers.two_legs import leg_name, two_leg_experiment

pytestmark = pytest.mark.integration


def test_every_leg_has_a_preflight_and_one_that_fails_there_still_runs(tmp_path: Path) -> None:
    experiment = two_leg_experiment(tmp_path)
    events: list[Event] = []
    train = toy_trainer(leg_name, {"two": Fault.CANNOT_START})
    context = LaunchContext(on_event=events.append, refresh=refresh, train=train, preflight=True)
    outcome = run_experiment(experiment, context)
    told = [event for event in events if isinstance(event, PreflightEnded | LegStarted)]
    assert [(type(event).__name__, event.at.trial) for event in told] == [
        ("PreflightEnded", "one-b1"),
        ("PreflightEnded", "two-b1"),
        ("LegStarted", "one-b1"),
        ("LegStarted", "two-b1"),
    ]
    assert "ValueError: the toy cannot start" in str(told[1])
    assert (outcome.completed, outcome.failed) == (("one-b1",), ("two-b1",))
    assert not list(Path(experiment.uri, "preflight").glob("trials/*/train/a000/step_*"))
    report = experiment.store.read("report/report.md").decode()
    assert "| `two` | failed | - | - | ValueError: the toy cannot start |" in report
