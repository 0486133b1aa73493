"""A copy of the report in a git repository: its own files are committed there, nothing else is touched."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment
from sweeps.results.report.build import refresh
from sweeps.results.report.publish import ReportCopy, without_links
from sweeps.spec.errors import SweepToolError, UsageError

Make = Callable[..., Experiment]


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for key, value in {"user.name": "tester", "user.email": "tester@example.org", "commit.gpgsign": "false"}.items():
        git(folder, "config", key, value)
    return folder


def test_the_report_lies_there_as_in_the_experiment(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment()
    refresh(experiment)
    ReportCopy(tmp_path / "a" / "b").publish(experiment)
    copied = {path.name: path.read_bytes() for path in (tmp_path / "a" / "b").iterdir()}
    own = {path.name: path.read_bytes() for path in Path(experiment.uri, "report").iterdir()}
    assert copied == {name: without_links(data) for name, data in own.items()}
    assert {"report.md", "report.html"} < copied.keys()


def test_a_report_links_to_the_files_of_its_experiment_and_a_copy_to_none(
    make_experiment: Make, tmp_path: Path
) -> None:
    experiment = make_experiment()
    refresh(experiment)
    ReportCopy(tmp_path / "copy").publish(experiment)
    folder = Path(experiment.uri, "report")
    for name, link in (("report.md", r"\]\(<([^>]*)>\)"), ("report.html", r'<a href="(\.[^"]*)"')):
        links = re.findall(link, (folder / name).read_text())
        assert "../export/legs.parquet" in links
        assert all((folder / address).exists() for address in links)
        copy = (tmp_path / "copy" / name).read_text()
        assert re.findall(link, copy) == []
        assert "legs.parquet" in copy


def test_each_completed_leg_is_one_commit(
    make_experiment: Make, complete: Callable[..., None], repository: Path
) -> None:
    experiment, copy = make_experiment(id="mine"), ReportCopy(repository / "results", commits=True)
    copy.check()
    for trial in ("static-b1", "static_cap1p25-b1"):
        complete(experiment, trial)
        refresh(experiment)
        copy.publish(experiment)
        copy.publish(experiment)  # nothing new
    assert git(repository, "log", "--format=%s").splitlines() == [
        "Report of mine: 2 of 4 trials completed",
        "Report of mine: 1 of 4 trials completed",
    ]
    assert git(repository, "status", "--porcelain") == ""


def test_what_else_is_staged_or_changed_stays_so(make_experiment: Make, repository: Path) -> None:
    experiment = make_experiment()
    refresh(experiment)
    (repository / "staged").write_text("1")
    (repository / "loose").write_text("1")
    git(repository, "add", "staged")
    ReportCopy(repository, commits=True).publish(experiment)
    assert git(repository, "status", "--porcelain").splitlines() == ["A  staged", "?? loose"]
    assert "staged" not in git(repository, "show", "--stat", "--format=").split()


def test_a_commit_that_git_refuses_says_why_and_is_made_later(make_experiment: Make, repository: Path) -> None:
    experiment, copy = make_experiment(), ReportCopy(repository, commits=True)
    refresh(experiment)
    (repository / ".git" / "index.lock").write_text("")
    with pytest.raises(SweepToolError, match=r"git add in .*: fatal: Unable to create .*index\.lock"):
        copy.publish(experiment)
    (repository / ".git" / "index.lock").unlink()
    copy.publish(experiment)
    assert len(git(repository, "log", "--format=%s").splitlines()) == 1


def test_places_that_cannot_be_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is no folder"):
        ReportCopy(tmp_path / "file").check()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UsageError, match="is in no git repository"):
        ReportCopy(tmp_path / "not" / "yet", commits=True).check()
    ReportCopy(tmp_path / "not" / "yet").check()


def test_a_launch_from_within_another_repositorys_hook_commits_where_it_was_told(
    make_experiment: Make, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, other = make_experiment(id="mine"), tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    refresh(experiment)
    copy = ReportCopy(repository / "results", commits=True)
    copy.check()
    copy.publish(experiment)
    monkeypatch.undo()
    assert git(repository, "log", "--format=%s") == "Report of mine: 0 of 4 trials completed"
    assert git(other, "status", "--porcelain") == ""


def test_the_hooks_of_the_repository_run(make_experiment: Make, repository: Path) -> None:
    experiment = make_experiment(id="mine")
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch .git/ran\n")
    hook.chmod(0o755)
    refresh(experiment)
    ReportCopy(repository / "results", commits=True).publish(experiment)
    assert (repository / ".git" / "ran").exists()
