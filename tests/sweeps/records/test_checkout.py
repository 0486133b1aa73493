"""Of a repository only this project's own changes are known, and asking runs nothing that its settings name."""

import os
import subprocess
from pathlib import Path

import pytest

from sweeps.records.checkout import OWN_FILE, PROJECT, Checkout

SECRET = "password = 'hunter2'"


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True).stdout


def put(folder: Path, **files: str) -> None:
    """Writes files; `__` stands for the slash and a dot ends the name."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make_project(folder: Path) -> Path:
    """This project's files in a folder, in no repository yet."""
    put(folder, nanochat__train="a = 1\n", sweeps__smoke="b = 1\n")
    (folder / OWN_FILE).parent.mkdir(parents=True, exist_ok=True)
    (folder / OWN_FILE).write_text("")
    (folder / "pyproject.toml").write_text(f"[project]\n{PROJECT}\n")
    return folder


def commit_all(folder: Path) -> str:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "-m", "x")
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A clean checkout of this project."""
    project = make_project(tmp_path / "own")
    commit_all(project)
    return project


def test_the_commit_and_the_uncommitted_changes_are_told_apart(own: Path, tmp_path: Path) -> None:
    commit = git(own, "rev-parse", "HEAD").strip()
    assert (Checkout(own).commit(), Checkout(own).diff()) == (commit, None)
    put(own, my_sweep="c = 1\n", nanochat__train="a = 2\n")
    git(own, "add", "my_sweep.py")
    assert Checkout(own).commit() == commit
    diff = Checkout(own).diff() or ""
    assert "+a = 2" in diff
    assert "+c = 1" in diff
    assert Checkout(tmp_path).commit() is None


def test_installed_inside_somebody_elses_repository_nothing_of_it_is_known(tmp_path: Path) -> None:
    site = make_project(tmp_path / "venv" / "site-packages")
    put(tmp_path, settings="password = ''\n", nanochat__train="their own\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "settings.py", "nanochat")
    git(tmp_path, "commit", "--quiet", "-m", "x")
    put(tmp_path, settings=SECRET)
    assert Checkout(site).commit() is None
    assert Checkout(tmp_path).commit() is None  # a folder of the same name is not this project


@pytest.mark.parametrize("place", ["lib/vendored", "."])
def test_as_a_part_of_another_checkout_only_its_own_changes_are_stored(tmp_path: Path, place: str) -> None:
    project = make_project(tmp_path / place)
    put(tmp_path, settings="password = ''\n", lib__vendored__secrets="x\n")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'theirs'\n")
    commit = commit_all(tmp_path)
    put(tmp_path, settings=SECRET, lib__vendored__secrets=SECRET)
    put(project, nanochat__train="a = 2\n")
    assert Checkout(project).commit() == commit
    diff = Checkout(project).diff() or ""
    assert "+a = 2" in diff
    assert "hunter2" not in diff


def test_variables_of_the_environment_lead_nowhere_else(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    put(theirs, sweeps__records__checkout="", settings="password = ''\n")
    commit_all(theirs)
    put(theirs, settings=SECRET)
    before = Checkout(own).commit()
    for name, value in {"GIT_DIR": theirs / ".git", "GIT_WORK_TREE": theirs, "GIT_EXTERNAL_DIFF": "false"}.items():
        monkeypatch.setenv(name, str(value))
    assert Checkout(own).commit() == before
    assert Checkout(own).diff() is None


@pytest.mark.parametrize("setting", ["core.fsmonitor", "diff.external", "diff.x.textconv", "diff.x.command"])
@pytest.mark.parametrize("also", ["filter.x.clean", "filter.x.process"])
def test_no_program_that_its_settings_name_is_run(own: Path, tmp_path: Path, setting: str, also: str) -> None:
    mark = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {mark}\ncat\n")
    program.chmod(0o755)
    (own / ".gitattributes").write_text("*.py diff=x filter=x\n")
    for name in (setting, also):
        git(own, "config", name, str(program))
    put(own, nanochat__train="a = 2\n")
    here = Checkout(own)
    assert here.commit() is not None
    assert "+a = 2" in (here.diff() or "")
    assert here.new_files("nanochat") == []
    assert not mark.exists()
    subprocess.run(["git", "-C", own, "diff", "HEAD"], capture_output=True, check=False)
    assert mark.exists()  # git by itself would have run it


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_checkout_of_another_user_is_told_and_stops_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(own.parent))  # where no setting trusts every owner
    assert Checkout(own).refusal() is None
    for path in (own, own / ".git"):
        os.chown(path, 12345, 12345)
    assert Checkout(own).commit() is None
    sentence = Checkout(own).refusal() or ""
    assert sentence.startswith(
        "the commit of the code is not known, git says: detected dubious ownership in repository"
    )
    assert sentence.endswith(f"git config --global --add safe.directory {own}")
