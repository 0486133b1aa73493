"""`launch` from what another experiment has completed, with a copy of the report, and without a terminal.

The old experiment is complete, so that nothing is left to train and no cluster is needed.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.detached import words_of
from cli.running import LaunchOptions
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.results.report.publish import ReportCopy
from sweeps.spec.find import load_sweep
from sweeps.spec.plan import make_plan


@pytest.fixture
def old(tmp_path: Path, complete: Callable[..., None]) -> Experiment:
    manifest = new_manifest(make_plan(load_sweep("smoke")), id="old", argv=["test"], settings={})
    experiment = Experiment.create(str(tmp_path / "storage"), "old", manifest)
    complete(experiment, "exact-b1")
    complete(experiment, "capped-b1")
    return experiment


def test_a_launch_takes_over_what_is_completed_and_shows_where_it_is_from(
    program: Callable, old: Experiment, tmp_path: Path
) -> None:
    done = program("launch", "smoke", "--name", "new", "--continue-from", "old", "--report-to", tmp_path / "shown")
    assert done.code == 0, done.err
    assert done.err.startswith("taken over from old: exact-b1, capped-b1\n")
    assert f"{tmp_path}/storage/new/report/report.md" in done.out.splitlines()
    assert "`exact` was taken over from experiment `old`" in (tmp_path / "shown" / "report.md").read_text()
    assert "exact was taken over from experiment old" in program("status", "new").out
    assert [t["origin"] for t in json.loads(program("status", "new", "--json").out)["trials"]] == ["old", "old"]


def test_a_launch_that_can_take_nothing_over_says_why_and_leaves_nothing(program: Callable, old: Experiment) -> None:
    done = program("launch", "smoke", "--name", "new", "--continue-from", "old", "--set", "run.log_every=3")
    assert done.code == 2
    assert "--continue-from old has no leg to take over (exact-b1: run.log_every is 1 there, 3 here; " in done.err
    assert not Path(old.uri).with_name("new").exists()


def test_a_copy_of_the_report_that_fails_is_a_warning(program: Callable, old: Experiment, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    (shown / "report.md").mkdir(parents=True)
    done = program("launch", "smoke", "--name", "new", "--continue-from", "old", "--report-to", shown)
    assert done.code == 0
    assert "warning: the report's copy was not updated: " in done.err


def test_a_detached_launch_prints_its_id_and_runs_on_by_itself(
    program: Callable, old: Experiment, tmp_path: Path
) -> None:
    done = program("launch", "smoke", "--name", "new", "--continue-from", "old", "--detach")
    assert (done.code, done.out) == (0, "new\n"), done.err
    assert f"stop it with:  nanochat-sweep stop {tmp_path}/storage/new" in done.err
    log = tmp_path / "storage" / "new" / "launcher.log"
    deadline = time.monotonic() + 60
    while "steps.parquet" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    assert Experiment.open(str(tmp_path / "storage" / "new")).state() == "completed"


def test_a_job_may_not_detach(program: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = {"metadata": {"job_submission_id": "raysubmit_1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    done = program("launch", "smoke", "--detach", "--address", "local")
    assert done.code == 2
    assert "--detach in a submitted job would be ended with the job" in done.err
    assert not (tmp_path / "storage").exists()


def test_the_detached_run_is_given_every_option(tmp_path: Path) -> None:
    options = LaunchOptions(grace_s=5.0, stop_after_s=3000.0, report_copy=ReportCopy(tmp_path, commits=True))
    words = [
        "--address",
        "local",
        "--grace-s",
        "5.0",
        "--stop-after",
        "3000s",
        "--report-to",
        str(tmp_path),
        "--commit",
    ]
    assert words_of(options, "local") == words
    side = LaunchOptions(grace_s=60.0, parallel=2)
    assert words_of(side, "host:1") == ["--address", "host:1", "--grace-s", "60.0", "--parallel", "2"]
    assert words_of(LaunchOptions(grace_s=60.0), "host:1") == ["--address", "host:1", "--grace-s", "60.0"]
