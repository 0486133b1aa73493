"""What twin trials say: how much runs of one leg differ, and whether an injected delay is found.

The spread between runs comes from the differences of the twins inside their blocks. Twins of a block follow each other
closely, and runs that follow each other differ less than runs of a long block do. So the floor is not below the spread
of all runs, over the whole time of the calibration.
"""

import math

import numpy as np

from sweeps.records.calibrations import conditions_of
from sweeps.records.documents import Calibration
from sweeps.results.decisions.boundaries import FIRST_LOOK
from sweeps.results.decisions.student import upper_limit_of_sd
from sweeps.results.measures.compare import why_barred
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec.metrics import METRIC

LIMIT_LEVEL = 0.20  # how often the true spread may lie above the limit that makes the floor
TWINS = "calibrates"
"""The key in a manifest's settings that says which leg has twins here."""


def is_calibration(snapshot: Snapshot) -> bool:
    """True if the experiment was made by `calibrate`."""
    return snapshot.manifest.settings.get(TWINS) is not None


def injected_pct(snapshot: Snapshot) -> float:
    """By how much the second twin's steps were delayed."""
    return max(trial.trial.config.run.inject_pct for trial in snapshot.trials)


def calibration_of(snapshot: Snapshot) -> Calibration | None:
    """What a calibration measured; None before enough blocks, for any other experiment, and with an injected delay."""
    if not is_calibration(snapshot) or injected_pct(snapshot) > 0:
        return None
    pairs = _pairs(snapshot)
    attempts = [attempt for pair in pairs for trial in pair for attempt in trial.attempts]
    seen = conditions_of(attempts, snapshot.plan.window_steps)
    if len(pairs) < FIRST_LOOK or seen is None or seen.host is None:
        return None
    runs = np.log([[_dt_ms(trial) for trial in pair] for pair in pairs])  # (R, 2)
    run_sd = float(np.std(runs[:, 1] - runs[:, 0], ddof=1)) / math.sqrt(2)
    over_all = float(np.std(runs, ddof=1))
    return Calibration(
        experiment=snapshot.manifest.id,
        leg=snapshot.plan.baseline.name,
        measured_utc=max(attempt.ended_utc or attempt.started_utc for attempt in attempts),
        run_sd=run_sd,
        floor_sd=max(upper_limit_of_sd(run_sd, len(pairs) - 1, LIMIT_LEVEL), over_all),
        num_blocks=len(pairs),
        window_steps=snapshot.plan.window_steps,
        num_workers=seen.num_workers,
        host=seen.host,
        device_name=seen.device_name,
        versions=seen.versions or {},
    )


def _pairs(snapshot: Snapshot) -> list[tuple[TrialSnapshot, TrialSnapshot]]:
    """The blocks in which both twins were measured on the same hardware."""
    one, other = (snapshot.of_leg(leg.name) for leg in snapshot.plan.legs)
    both = {trial.trial.block: trial for trial in other if _is_measured(trial)}
    pairs = [(trial, both[trial.trial.block]) for trial in one if _is_measured(trial) and trial.trial.block in both]
    return [pair for pair in pairs if not why_barred(METRIC["dt_ms"], *pair)]


def _is_measured(trial: TrialSnapshot) -> bool:
    return trial.state == "completed" and trial.measures["dt_ms"] is not None


def _dt_ms(trial: TrialSnapshot) -> float:
    value = trial.measures["dt_ms"]
    assert value is not None, "only measured trials are paired"
    return value
