"""The benchmark of answers measures a real experiment, beside controls."""

from pathlib import Path

import pytest

from bench import answers
from sweeps.results.measures.snapshot import read_snapshot


def test_its_experiment_is_as_large_as_asked(tmp_path: Path):
    experiment = answers.large_experiment(tmp_path, num_trials=4, num_steps=3)
    assert [len(trial.steps) for trial in read_snapshot(experiment).trials] == [3] * 4
    assert answers.parse_rows(Path(experiment.uri)) == 12


def test_it_prints_a_figure_and_a_control_for_each_answer(capsys: pytest.CaptureFixture[str]):
    answers.main(["--rounds", "1", "--trials", "2", "--steps", "3"])
    lines = capsys.readouterr().out.splitlines()
    names = ["--help: ", "status of 2 trials of 3 steps: ", "the embedded corpus: "]
    assert all(line.startswith(name) for line, name in zip(lines, names, strict=True))
    assert all(" s of CPU; control " in line for line in lines)
