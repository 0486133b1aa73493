"""Stores what a calibration measured, and binds other experiments to one before their first look at the gates.

Bound to it, an experiment keeps its verdicts wherever its folder is moved, and a later calibration changes none.
"""

from sweeps.records.calibrations import MEASURED, bind, used_by
from sweeps.records.documents import to_bytes
from sweeps.records.experiment import Experiment
from sweeps.results.decisions.boundaries import FIRST_LOOK
from sweeps.results.decisions.calibrating import calibration_of, is_calibration
from sweeps.results.decisions.judgement import judge
from sweeps.results.measures.snapshot import Snapshot


def keep_calibration(experiment: Experiment, snapshot: Snapshot) -> None:
    """For the process that runs the experiment to call after each leg."""
    measured = calibration_of(snapshot)
    if measured is not None:
        experiment.store.write(MEASURED, to_bytes(measured))
        return
    fitting = None if is_calibration(snapshot) or used_by(experiment) is not None else snapshot.calibration
    if fitting is not None and judge(snapshot).num_complete < FIRST_LOOK:
        bind(experiment, fitting)
