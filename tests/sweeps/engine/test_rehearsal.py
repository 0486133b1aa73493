"""What is rehearsed before a launch. A rehearsal on a real cluster: tests/integration/test_rehearsal.py."""

from collections.abc import Callable

from sweeps.engine.rehearsal import create, short_plan
from sweeps.records.experiment import Experiment


def test_each_leg_is_rehearsed_once_for_three_steps_without_a_checkpoint(
    make_experiment: Callable[..., Experiment],
) -> None:
    plan = make_experiment(num_blocks=2).plan
    short = short_plan(plan)
    assert sorted(trial.leg.name for trial in short.trials) == sorted(leg.name for leg in plan.legs)
    assert {trial.config.schedule.num_steps for trial in short.trials} == {3}
    assert {trial.config.run.checkpoint_every for trial in short.trials} == {None}
    assert not any(trial.config.run.final_checkpoint for trial in short.trials)


def test_a_rehearsal_is_an_experiment_inside_the_real_one(make_experiment: Callable[..., Experiment]) -> None:
    experiment = make_experiment()
    rehearsal = create(experiment)
    assert rehearsal.uri == f"{experiment.uri}/preflight"
    assert Experiment.open(rehearsal.uri).plan == short_plan(experiment.plan)
