"""A time limit for legs on a real private Ray cluster: each is stopped with a checkpoint, fails, and can be retried."""

from pathlib import Path

import pytest

from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import Event, LegFailed
from tests.helpers.toy import toy_trainer
from tests.helpers.two_legs import leg_name, two_leg_experiment

pytestmark = pytest.mark.integration


def test_a_leg_whose_time_is_up_leaves_a_checkpoint_and_the_next_one_runs(tmp_path: Path) -> None:
    experiment = two_leg_experiment(tmp_path, num_steps=400, leg_timeout="1s")  # over before the ranks have started
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
