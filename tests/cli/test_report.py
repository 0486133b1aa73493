"""`report` as a user types it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sweeps.records.experiment import Experiment

PROGRAM = Path(sys.executable).parent / "nanochat-sweep"
Make = Callable[..., Experiment]


def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=60)


def test_the_report_goes_into_the_experiment_and_its_path_to_stdout(make_experiment: Make) -> None:
    experiment = make_experiment()
    done = call("report", experiment.uri)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{experiment.uri}/report/report.md\n"
    assert (Path(experiment.uri) / "report" / "report-loss.svg").is_file()


def test_out_md_puts_report_and_figures_elsewhere(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment()
    done = call("report", experiment.uri, "--out-md", tmp_path / "mine.md")
    assert done.stdout == f"{tmp_path}/mine.md\n"
    assert (tmp_path / "mine-dt.svg").is_file()
    assert not (Path(experiment.uri) / "report").exists()


def test_a_place_that_cannot_be_written_is_one_sentence_and_code_2(make_experiment: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("report", make_experiment().uri, "--out-md", tmp_path / "file" / "mine.md")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the results cannot be written")
