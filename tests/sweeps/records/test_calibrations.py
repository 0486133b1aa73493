"""Calibrations below a storage root: the newest that fits is used, others are stale for a reason."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.calibrations import MEASURED, Calibrations, Conditions, bind, used_by, why_stale
from sweeps.records.documents import Calibration, to_bytes
from sweeps.records.experiment import Experiment
from sweeps.spec.errors import CorruptData
from tests.helpers.calibrations import calibration

Make = Callable[..., Experiment]
HERE = Conditions(
    num_workers=2, window_steps=10, host="h", device_name="NVIDIA H100", versions={"torch": "2.13", "ray": "2.50"}
)
MADE = calibration(measured_utc="2026-01-01T12:00:00.000000Z")


def store(make_experiment: Make, calibration: Calibration) -> str:
    experiment = make_experiment(id=calibration.experiment)
    experiment.store.write(MEASURED, to_bytes(calibration))
    return str(Path(experiment.uri).parent)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device_name": "NVIDIA H200"}, "card NVIDIA H100, here NVIDIA H200"),
        ({"host": "other"}, "host h, here other"),
        ({"num_workers": 8}, "2 workers, here 8"),
        ({"window_steps": 50}, "a window of 10 steps, here 50"),
        ({"versions": {"torch": "2.14"}}, "torch 2.13, here 2.14"),
    ],
)
def test_another_card_host_group_window_or_version_makes_it_stale(change: dict[str, object], reason: str):
    assert why_stale(MADE, HERE) == []
    assert why_stale(MADE, dataclasses.replace(HERE, **change)) == [reason]  # pyright: ignore[reportArgumentType]


def test_what_is_not_known_is_not_held_against_it():
    unknown = Conditions(num_workers=2, window_steps=10, host=None, device_name=None, versions=None)
    assert why_stale(MADE, unknown) == []


def test_the_newest_that_fits_is_used(make_experiment: Make):
    store(make_experiment, MADE)
    newer = dataclasses.replace(MADE, experiment="newer", measured_utc="2026-02-01T12:00:00.000000Z")
    store(make_experiment, newer)
    newest = dataclasses.replace(MADE, experiment="newest", measured_utc="2026-03-01T12:00:00.000000Z", host="other")
    root = store(make_experiment, newest)
    assert Calibrations(root).fitting(HERE).calibration == newer
    assert Calibrations(root).fitting(HERE, but="newer").calibration == MADE


def test_without_one_that_fits_the_reasons_are_told_and_damage_stops_nothing(make_experiment: Make):
    root = store(make_experiment, dataclasses.replace(MADE, host="other"))
    broken = make_experiment(id="broken")
    broken.store.write(MEASURED, b"{")
    fitting = Calibrations(root).fitting(HERE)
    assert fitting.calibration is None
    assert fitting.stale[0] == "calibration cal: host other, here h"
    assert fitting.stale[1].startswith("calibration broken: broken/calibration.json is damaged")
    assert Calibrations("/nowhere/at/all").fitting(HERE) == Calibrations("/nowhere").fitting(HERE)


def test_an_experiment_keeps_a_copy_of_the_one_that_it_is_bound_to(make_experiment: Make):
    experiment = make_experiment()
    assert used_by(experiment) is None
    bind(experiment, MADE)
    assert used_by(Experiment.open(experiment.uri)) == MADE
    experiment.store.write("floor.json", b"[]")
    with pytest.raises(CorruptData, match=r"floor.json is damaged"):
        used_by(experiment)
