"""`export` as a user types it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from sweeps.records.experiment import Experiment
from sweeps.results.tables.parquet import FILES

PROGRAM = Path(sys.executable).parent / "nanochat-sweep"
Make = Callable[..., Experiment]


def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=60)


def test_the_tables_go_into_the_experiment_and_their_paths_to_stdout(
    make_experiment: Make, complete: Callable[..., None]
) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1")
    done = call("export", experiment.uri)
    assert (done.returncode, done.stderr) == (0, "")
    legs, steps, *_ = done.stdout.splitlines()
    assert legs == f"{experiment.uri}/export/legs.parquet"
    assert pq.read_table(steps).num_rows == 40


def test_out_puts_them_elsewhere(make_experiment: Make, tmp_path: Path) -> None:
    done = call("export", "2026", "--storage", tmp_path / "storage", "--out", tmp_path / "out")
    assert done.returncode == 2  # there is none yet
    make_experiment()
    done = call("export", "2026", "--storage", tmp_path / "storage", "--out", tmp_path / "out")
    assert done.stdout.splitlines() == [f"{tmp_path}/out/{name}" for name in FILES]


def test_a_place_that_cannot_be_written_is_one_sentence_and_code_2(make_experiment: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("export", make_experiment().uri, "--out", tmp_path / "file")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the results cannot be written")
    assert len(done.stderr.splitlines()) == 1


def test_csv_adds_the_two_layouts_of_the_reference(make_experiment: Make, complete: Callable[..., None]) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1")
    done = call("export", experiment.uri, "--csv")
    assert [Path(line).name for line in done.stdout.splitlines()] == [*FILES, "summary.csv", "steps.csv"]
    assert (Path(experiment.uri) / "export" / "steps.csv").read_text().startswith("run,step,loss,bal,dt_ms,tok_sec,")
