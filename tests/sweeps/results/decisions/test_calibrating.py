"""What twins measure, when it becomes the floor of other experiments, and what is said of an injected delay."""

import dataclasses
import math
import statistics
from pathlib import Path

import numpy as np
import pytest

from sweeps.records.calibrations import MEASURED, Fitting, used_by
from sweeps.records.documents import Calibration, from_bytes
from sweeps.records.experiment import Experiment
from sweeps.results.decisions.calibrating import TWINS, calibration_of
from sweeps.results.decisions.conclusion import conclude
from sweeps.results.decisions.judgement import judge
from sweeps.results.decisions.keeping import keep_calibration
from sweeps.results.decisions.phrase import text_of
from sweeps.results.decisions.reach import DEFAULT_FLOOR_SD
from sweeps.results.decisions.student import upper_limit_of_sd
from sweeps.results.decisions.twins import sentences
from sweeps.results.measures.snapshot import Snapshot
from sweeps.spec.plan import plan_to_json
from sweeps.spec.twins import twin_plan
from tests.helpers.judged import judged_experiment, judged_of_plan, judged_sweep


def twins(*, num_blocks: int = 4, sd: float = 0.001, inject_pct: float = 0.0, effect: float = 0.0) -> Snapshot:
    """A calibration of cap0 with every trial done; `effect` is what is seen of the second twin's dt."""
    plan = twin_plan(judged_sweep(), None, num_blocks, 8, inject_pct)
    made = judged_of_plan(plan, {"cap0-twin": effect}, sd=sd)
    return dataclasses.replace(made, manifest=dataclasses.replace(made.manifest, settings={TWINS: "cap0"}))


def said(snapshot: Snapshot) -> list[str]:
    return sentences(snapshot, judge(snapshot))


def test_the_spread_is_that_of_the_differences_and_the_floor_lies_above_it():
    snapshot = twins()
    found = calibration_of(snapshot)
    assert found is not None
    logs = {leg: [math.log(t.measures["dt_ms"] or 0) for t in snapshot.of_leg(leg)] for leg in ("cap0", "cap0-twin")}
    differences = [b - a for a, b in zip(logs["cap0"], logs["cap0-twin"], strict=True)]
    assert found.run_sd == pytest.approx(statistics.stdev(differences) / math.sqrt(2))
    assert found.floor_sd >= statistics.stdev([*logs["cap0"], *logs["cap0-twin"]])
    assert (found.num_blocks, found.num_workers, found.host, found.device_name) == (4, 8, "h", "NVIDIA H100")
    assert "floor: " in said(snapshot)[1]


def test_the_true_spread_lies_above_the_limit_as_rarely_as_is_said():
    """Of 2,000 estimates from 4 differences of sd 1 each, the limit is below 1 in a fifth."""
    drawn = np.random.default_rng(0).standard_normal((2000, 4)).std(axis=1, ddof=1)
    below = sum(upper_limit_of_sd(float(sd), 3, 0.20) < 1 for sd in drawn) / 2000
    assert below == pytest.approx(0.20, abs=0.03)


@pytest.mark.parametrize(("num_blocks", "inject_pct"), [(2, 0.0), (4, 30.0)])
def test_too_few_blocks_or_an_injected_delay_give_no_floor(num_blocks: int, inject_pct: float):
    assert calibration_of(twins(num_blocks=num_blocks, inject_pct=inject_pct, effect=0.3)) is None


def test_no_other_experiment_is_a_calibration():
    assert calibration_of(judged_experiment({})) is None
    assert said(judged_experiment({})) == []


def test_equal_twins_read_equivalent_and_a_delay_reads_found():
    assert said(twins(sd=0.0003))[0].startswith("twins of cap0: ")
    assert said(twins(sd=0.0003))[0].endswith("EQUIVALENT")
    found = said(twins(sd=0.0003, inject_pct=1.0, effect=0.01))
    assert found[0].startswith("a delay of 1 %, \N{MINUS SIGN}0.99 % tok/s, is found: \N{MINUS SIGN}")
    assert found[1].startswith("floor: none, a delay was injected")
    assert "is not found: " in said(twins(sd=0.02, inject_pct=1.0, effect=0.01))[0]


def test_the_floor_of_a_calibration_widens_or_narrows_the_intervals_of_others():
    default = judged_experiment({"cap1": -0.01}, sd=0.0002)
    wide = Fitting(calibration=calibration_of(twins(sd=0.01)))
    calibrated = dataclasses.replace(default, find_calibration=lambda: wide)
    assert judge(default).floor_sd == DEFAULT_FLOOR_SD
    assert judge(calibrated).floor_sd > 0.005
    assert (judge(default).of_leg("cap1").word, judge(calibrated).of_leg("cap1").word) == ("IMPROVED", "INCONCLUSIVE")


def test_a_run_keeps_what_it_measured_and_binds_to_a_calibration_before_the_first_look(tmp_path: Path):
    plan, made = twin_plan(judged_sweep(), None, 4, 8, 0.0), twins()
    manifest = dataclasses.replace(made.manifest, plan=plan_to_json(plan))
    calibration = Experiment.create(str(tmp_path), "cal", manifest)
    keep_calibration(calibration, made)
    stored = from_bytes(Calibration, calibration.store.read(MEASURED), MEASURED)
    assert stored == calibration_of(made)

    late, early = judged_experiment({}, num_blocks=4), judged_experiment({}, num_blocks=2)
    for name, snapshot, expected in (("late", late, None), ("early", early, stored)):
        experiment = Experiment.create(str(tmp_path), name, snapshot.manifest)
        keep_calibration(
            experiment, dataclasses.replace(snapshot, find_calibration=lambda: Fitting(calibration=stored))
        )
        assert used_by(experiment) == expected


def test_a_calibration_leads_with_its_twins():
    snapshot = twins(sd=0.0003)
    found = conclude(snapshot, judge(snapshot))
    assert (found.word, text_of(found.sentence)) == ("EQUIVALENT", said(snapshot)[0])
    assert [text_of(phrase) for phrase in found.also] == said(snapshot)[1:]
