"""A calibration trains one leg twice; the delay of the second twin is in its rows, and the answer is honest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.records.experiment import Experiment

pytestmark = pytest.mark.integration


def test_twins_train_and_the_delay_of_one_is_marked_in_its_rows(
    tmp_path: Path, make_place: Callable[[Path], Path], run_in_shell: Callable[..., Any]
) -> None:
    place = make_place(tmp_path / "place")
    command = "nanochat-sweep calibrate sweeps/smoke.py --name twins --blocks 1 --num-steps 4 --inject-pct 30"
    done = run_in_shell(command, place, timeout_s=600)
    assert done.returncode == 0, done.stderr
    assert "a delay of 30 %, \N{MINUS SIGN}23.1 % tok/s, is not found: not measured yet" in done.stdout
    assert "floor: none, a delay was injected" in done.stdout

    experiment = Experiment.open(str(place / "storage" / "twins"))
    assert [leg.name for leg in experiment.plan.legs] == ["exact", "exact-twin"]
    plain, delayed = (experiment.trial(f"{leg.name}-b1").rows() for leg in experiment.plan.legs)
    assert [row.loss for row in plain] == [row.loss for row in delayed]  # a delay changes times alone
    assert {row.injected_ms for row in plain} == {None}
    for row in delayed:
        assert row.injected_ms is not None
        assert row.injected_ms == pytest.approx(0.3 / 1.3 * row.dt_ms, rel=0.2)
    assert not experiment.store.exists("calibration.json")
    told = json.loads(run_in_shell("nanochat-sweep gate twins --json", place).stdout)
    assert told["exit_code"] == 4
