"""`restore` asks for hardware only if there is something left to run. A real one: tests/integration."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.spec.find import load_sweep
from sweeps.spec.plan import Trial, make_plan
from tests.helpers.rows import row


@pytest.fixture
def full_size(tmp_path: Path) -> Experiment:
    """The capacity sweep on 8 GPUs, which this machine does not have."""
    manifest = new_manifest(make_plan(load_sweep("capacity")), id="mine", argv=["test"], settings={})
    return Experiment.create(str(tmp_path / "storage"), "mine", manifest)


def test_a_completed_experiment_needs_none(
    program: Callable, full_size: Experiment, complete: Callable[..., None]
) -> None:
    for trial in full_size.plan.trials:
        complete(full_size, trial.name)
    done = program("restore", "mine", "--address", "local")
    assert done.code == 0, done.err
    assert "6 of 6 trials completed" in done.err


@pytest.fixture
def open_trial(full_size: Experiment, complete: Callable[..., None]) -> Trial:
    """The only one that is not completed."""
    first, *others = full_size.plan.trials
    for trial in others:
        complete(full_size, trial.name)
    return first


@pytest.mark.usefixtures("open_trial")
def test_an_open_leg_needs_its_workers(program: Callable) -> None:
    done = program("restore", "mine", "--address", "local")
    assert done.code == 69
    assert "wants 8 GPUs" in done.err


def test_an_experiment_is_complete_without_a_leg_that_was_dropped(
    program: Callable, full_size: Experiment, open_trial: Trial
) -> None:
    for _ in range(2):  # the same command can be given again
        done = program("restore", "mine", "--drop", open_trial.leg.name, "--address", "local")
        assert done.code == 0, done.err
        assert f"5 of 6 trials completed; dropped: {open_trial.name}" in done.err
    assert (full_size.trial(open_trial.name).state(), full_size.state()) == ("dropped", "completed")
    assert program("restore", "mine", "--address", "local").code == 0  # it stays dropped
    assert "dropped" in program("status", "mine").out
    report = full_size.store.read("report/report.md").decode()
    assert f"| `{open_trial.leg.name}` | dropped |" in report


def test_a_retry_by_name_takes_a_drop_back(program: Callable, full_size: Experiment, open_trial: Trial) -> None:
    record = full_size.trial(open_trial.name)
    record.drop()
    assert program("retry", "mine").err == "no leg of mine has failed; nothing to retry\n"
    done = program("retry", "mine", "--legs", open_trial.leg.name)
    assert (done.code, record.state()) == (69, "dropped")  # no place to run it, so nothing has changed
    assert "wants 8 GPUs" in done.err
    record.undo_drop()
    assert (record.state(), full_size.state()) == ("pending", "interrupted")
    assert b"undone_utc" in full_size.store.read(record.folders.drop)


def test_a_running_experiment_loses_no_leg(program: Callable, full_size: Experiment) -> None:
    leg = full_size.plan.trials[0].leg.name
    full_size.lock()
    try:
        done = program("restore", "mine", "--drop", leg, "--num-workers", "8", "--address", "127.0.0.1:1")
    finally:
        full_size.unlock()
    assert done.code == 75
    assert full_size.trial(full_size.plan.trials[0].name).state() == "pending"


def test_a_run_says_of_a_leg_that_it_diverged(
    program: Callable, full_size: Experiment, complete: Callable[..., None]
) -> None:
    first, *others = full_size.plan.trials
    complete(full_size, first.name, [row(s, trial=first.name, loss=math.nan, loss_ema=math.nan) for s in range(40)])
    for trial in others:
        complete(full_size, trial.name)
    done = program("restore", "mine", "--address", "local")
    assert done.code == 0, done.err
    assert f"warning: {first.leg.name} diverged: the loss is not a finite number" in done.err
    assert done.err.count("diverged: ") == 1  # the verdict names it, too
