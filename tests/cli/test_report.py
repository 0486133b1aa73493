"""`report` as a user types it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sweeps.records.experiment import Experiment

PROGRAM = Path(sys.executable).parent / "nanochat-sweep"
Make = Callable[..., Experiment]


def call(*words: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=60, cwd=folder)


def test_both_forms_go_into_the_experiment_and_their_paths_to_stdout(make_experiment: Make) -> None:
    experiment = make_experiment()
    done = call("report", experiment.uri)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{experiment.uri}/report/report.md\n{experiment.uri}/report/report.html\n"
    assert (Path(experiment.uri) / "report" / "report-loss.svg").is_file()


def test_out_md_puts_report_and_figures_elsewhere(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment()
    done = call("report", experiment.uri, "--out-md", tmp_path / "mine.md")
    assert done.stdout == f"{tmp_path}/mine.md\n"
    assert (tmp_path / "mine-dt.svg").is_file()
    assert not (Path(experiment.uri) / "report").exists()


def test_out_html_writes_one_file_and_nothing_else(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment()
    done = call("report", experiment.uri, "--out-html", tmp_path / "out" / "mine.html")
    assert done.stdout == f"{tmp_path}/out/mine.html\n"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.html"]
    assert not (Path(experiment.uri) / "report").exists()


def test_several_experiments_make_one_report_in_the_present_folder(make_experiment: Make, tmp_path: Path) -> None:
    uris = [make_experiment().uri, make_experiment(id="other").uri]
    done = call("report", *uris, folder=tmp_path)
    assert done.stdout == f"{tmp_path}/report/report.md\n{tmp_path}/report/report.html\n"
    assert (tmp_path / "report" / "report.md").read_text().startswith("# toy: 2 experiments\n")


def test_the_same_experiment_named_twice_counts_once(make_experiment: Make) -> None:
    uri = make_experiment().uri
    done = call("report", uri, uri)
    assert done.stdout.startswith(f"{uri}/report/report.md\n")


def test_an_experiment_named_in_two_ways_counts_once(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment()
    done = call("report", experiment.id, experiment.id[:6], experiment.uri, "--storage", tmp_path / "storage")
    assert done.stdout.splitlines()[0] == f"{experiment.uri}/report/report.md", done.stderr


def test_two_forms_for_one_file_are_refused(make_experiment: Make, tmp_path: Path) -> None:
    done = call("report", make_experiment().uri, "--out-md", "one", "--out-html", tmp_path / "one", folder=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --out-md and --out-html both name one; give each its own file\n",
    )
    assert not (tmp_path / "one").exists()


def test_a_place_that_cannot_be_written_is_one_sentence_and_code_2(make_experiment: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("report", make_experiment().uri, "--out-md", tmp_path / "file" / "mine.md")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the results cannot be written")


def test_a_folder_or_an_address_in_a_files_place_is_refused_and_leaves_nothing(
    make_experiment: Make, tmp_path: Path
) -> None:
    uri, here = make_experiment().uri, tmp_path / "here"
    here.mkdir()
    for option, place, sentence in (
        ("--out-md", ".", "--out-md . is a folder"),
        ("--out-html", "s3://b/x", "--out-html takes"),
    ):
        done = call("report", uri, option, place, folder=here)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {sentence}")
        assert list(here.iterdir()) == []
