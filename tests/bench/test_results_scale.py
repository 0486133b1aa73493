"""The benchmark of large experiments measures real commands over a real experiment."""

from pathlib import Path

from bench import results_scale
from sweeps.records.experiment import Experiment


def test_its_experiment_is_complete_and_a_command_over_it_is_timed(tmp_path: Path):
    results_scale.build(tmp_path, num_trials=10, num_steps=80)
    assert set(Experiment.open(str(tmp_path / "large")).trial_states().values()) == {"completed"}
    assert " s of CPU, " in results_scale.timed(tmp_path, ["ls"])
