"""What a preflight runs before a launch. On a real cluster: tests/integration/test_preflight.py."""

from collections.abc import Callable

from sweeps.engine.cluster.checks import Resources
from sweeps.engine.preflight import PreflightEvents, create_preflight, short_plan
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.trials.run import TrialsRun
from sweeps.engine.watching.events import Event, LegCompleted, Place, Stopping
from sweeps.engine.watching.stop import StopState
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow


def test_each_leg_runs_once_for_three_steps_without_a_checkpoint(
    make_experiment: Callable[..., Experiment],
) -> None:
    plan = make_experiment(num_blocks=2).plan
    short = short_plan(plan)
    assert sorted(trial.leg.name for trial in short.trials) == sorted(leg.name for leg in plan.legs)
    assert {trial.config.schedule.num_steps for trial in short.trials} == {3}
    assert {trial.config.run.checkpoint_every for trial in short.trials} == {None}
    assert not any(trial.config.run.final_checkpoint for trial in short.trials)


def test_a_leg_that_is_completed_already_has_no_preflight(
    make_experiment: Callable[..., Experiment], complete: Callable[..., None]
) -> None:
    experiment = make_experiment(num_blocks=2)
    for trial in ("static-b1", "static-b2", "bf16-b1"):
        complete(experiment, trial)
    names = [trial.leg.name for trial in create_preflight(experiment).plan.trials]
    assert sorted(names) == ["bf16", "none_cap1p25", "static_cap1p25"]


def test_a_preflight_is_an_experiment_inside_the_real_one(make_experiment: Callable[..., Experiment]) -> None:
    experiment = make_experiment()
    short = create_preflight(experiment)
    assert short.uri == f"{experiment.uri}/preflight"
    assert Experiment.open(short.uri).plan == short_plan(experiment.plan)


def test_a_leg_that_ran_uncompiled_is_told_as_such(
    make_experiment: Callable[..., Experiment], make_row: Callable[..., StepRow]
) -> None:
    short, told = create_preflight(make_experiment()), list[Event]()
    for position, flags in enumerate([("warmup",), ("warmup", "fallback")], start=1):
        trial = short.plan.trials[position - 1].name
        short.trial(trial).append_rows(0, [make_row(step, flags=flags) for step in range(3)])
        end = LegCompleted(at=Place(trial, position, 2), num_steps=3, loss=9.0, tok_per_sec=1.0, total_time_min=0.1)
        PreflightEvents(short, told.append)(end)
    sound, uncompiled = map(str, told)
    assert sound.endswith(": runs; first step 0.1 s, peak 900 MiB")
    assert uncompiled.endswith(": could not be compiled, runs uncompiled; first step 0.1 s, peak 900 MiB")


def test_a_stop_of_the_experiment_stops_its_preflight(make_experiment: Callable[..., Experiment]) -> None:
    experiment, told, stop = make_experiment(), list[Event](), StopState(grace_s=60.0)
    short = create_preflight(experiment)
    context = LaunchContext(on_event=told.append, refresh=lambda e: None)
    resources = Resources(num_cpus=None, num_gpus=0, where="this machine")
    run = TrialsRun(short, context, resources, stop, also_asked=experiment.stop_requested)
    run.look()
    assert (told, stop.was_asked, short.stop_requested()) == ([], False, None)
    experiment.request_stop("nanochat-sweep stop")
    run.look()
    assert [type(event) for event in told] == [Stopping]
    assert (stop.was_asked, short.stop_requested()) == (True, "nanochat-sweep stop")
