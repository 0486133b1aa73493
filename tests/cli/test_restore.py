"""`restore` asks for hardware only where there is something left to run. A real one: tests/integration."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.spec.find import load_sweep
from sweeps.spec.plan import make_plan


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
    assert "6 of 6 legs completed" in done.err


def test_an_open_leg_needs_its_workers(program: Callable, full_size: Experiment, complete: Callable[..., None]) -> None:
    for trial in full_size.plan.trials[1:]:
        complete(full_size, trial.name)
    done = program("restore", "mine", "--address", "local")
    assert done.code == 69
    assert "wants 8 GPUs" in done.err
