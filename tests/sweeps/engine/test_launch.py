"""How a run of an experiment ends is read from storage; a launch without open trials needs no Ray."""

import signal
from collections.abc import Callable

import pytest
from ray.exceptions import RayTaskError

from sweeps.engine.launch import outcome_of, run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.trials.run import is_open, reason_of
from sweeps.engine.watching.events import Event, ExperimentEnded, Warned
from sweeps.engine.watching.stop import StopState
from sweeps.records.documents import Refusal, TrialState
from sweeps.records.experiment import Experiment
from sweeps.records.owner import Owner
from sweeps.spec.errors import Locked


def stopped(number: signal.Signals | None) -> StopState:
    state = StopState(grace_s=60)
    if number is None:
        state.begin()
    else:
        state.note(number)
    return state


NOT_STOPPED = StopState(grace_s=60)


@pytest.mark.parametrize(
    ("states", "stop", "code"),
    [
        (["completed", "completed"], NOT_STOPPED, 0),
        (["completed", "stopped_early"], NOT_STOPPED, 0),
        (["completed", "completed"], stopped(signal.SIGINT), 0),  # the signal came too late to matter
        (["completed", "dropped"], NOT_STOPPED, 0),
        (["dropped", "failed"], NOT_STOPPED, 5),
        (["completed", "failed"], NOT_STOPPED, 5),
        (["completed", "failed"], stopped(signal.SIGINT), 5),
        (["completed", "interrupted", "pending"], stopped(signal.SIGINT), 130),
        (["completed", "interrupted", "pending"], stopped(signal.SIGTERM), 143),
        (["failed", "interrupted"], stopped(None), 130),  # a request file, nobody's signal
        (["completed", "interrupted"], NOT_STOPPED, 5),  # given up after too many interruptions
        (["running", "completed"], stopped(signal.SIGTERM), 143),
    ],
)
def test_the_exit_code_compares_the_plan_with_what_is_stored(
    states: list[TrialState], stop: StopState, code: int
) -> None:
    assert outcome_of({f"t{i}": state for i, state in enumerate(states)}, stop).exit_code == code


@pytest.mark.parametrize("code", [6, 69])
@pytest.mark.parametrize("states", [["completed", "pending"], ["failed", "interrupted"]])
def test_what_refused_a_leg_decides_the_exit_code_while_legs_are_to_do(states: list[TrialState], code: int) -> None:
    refusal = Refusal(reason="others use the GPUs, or the text has changed", exit_code=code)
    assert outcome_of({f"t{i}": state for i, state in enumerate(states)}, NOT_STOPPED, refusal).exit_code == code
    assert outcome_of({"a": "completed", "b": "failed"}, NOT_STOPPED, refusal).exit_code == 5


def test_an_outcome_names_every_trial_once() -> None:
    outcome = outcome_of(
        {"a": "completed", "b": "failed", "c": "interrupted", "d": "pending", "e": "dropped"}, NOT_STOPPED
    )
    assert (outcome.completed, outcome.failed, outcome.unfinished) == (("a",), ("b",), ("c", "d"))
    assert outcome.dropped == ("e",)


@pytest.fixture
def finished(make_experiment: Callable[..., Experiment], complete: Callable[..., None]) -> Experiment:
    experiment = make_experiment()
    for trial in experiment.plan.trials:
        complete(experiment, trial.name)
    return experiment


def test_a_completed_experiment_only_gets_its_results_regenerated(finished: Experiment) -> None:
    events: list[Event] = []
    refreshed: list[str] = []
    outcome = run_experiment(finished, LaunchContext(on_event=events.append, refresh=lambda e: refreshed.append(e.id)))
    assert outcome.exit_code == 0
    assert refreshed == [finished.id]
    assert isinstance(events[-1], ExperimentEnded)
    assert finished.owner() is None


def test_results_that_cannot_be_made_are_a_warning(finished: Experiment) -> None:
    events: list[Event] = []

    def refresh(_: Experiment) -> None:
        raise OSError(28, "No space left on device")

    assert run_experiment(finished, LaunchContext(on_event=events.append, refresh=refresh)).exit_code == 0
    assert any("No space left" in str(event) for event in events if isinstance(event, Warned))


def test_an_end_that_a_full_disk_refuses_to_store_is_a_warning(
    finished: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []

    def refuse() -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(finished, "unlock", refuse)
        outcome = run_experiment(finished, LaunchContext(on_event=events.append, refresh=lambda _: None))
    finished.unlock()
    assert outcome.exit_code == 0
    assert any("could not be stored" in str(event) and "No space left" in str(event) for event in events)
    assert isinstance(events[-1], ExperimentEnded)


def test_what_a_remote_process_raised_is_told_without_rays_header() -> None:
    cause = OSError(28, "No space left on device")
    raised = RayTaskError("train", "ray::train()\nTraceback ...", cause).as_instanceof_cause()
    assert reason_of(raised) == reason_of(cause) == "OSError: [Errno 28] No space left on device"
    assert reason_of(ValueError("first\nsecond")) == "ValueError: first"


def test_an_experiment_that_somebody_runs_is_locked(make_experiment: Callable[..., Experiment]) -> None:
    experiment = make_experiment()
    experiment.lock(Owner.this_process())
    try:
        with pytest.raises(Locked):
            run_experiment(Experiment.open(experiment.uri), LaunchContext(on_event=print, refresh=print))
    finally:
        experiment.unlock()


def test_a_trial_is_open_until_it_has_a_result_or_failed(
    make_experiment: Callable[..., Experiment], complete: Callable[..., None]
) -> None:
    import dataclasses

    experiment = make_experiment()
    record = experiment.trial("static-b1")
    assert is_open(record)
    attempt = record.start_attempt(num_workers=2)
    assert is_open(record)
    record.update_attempt(dataclasses.replace(attempt, end="failed"))
    assert not is_open(record)
    record.allow_retry()
    assert is_open(record)
    complete(experiment, "none_cap1p25-b1")
    assert not is_open(experiment.trial("none_cap1p25-b1"))
