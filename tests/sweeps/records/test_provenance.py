"""A manifest says which code ran, down to uncommitted changes."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from nanochat.config import digest
from sweeps.records.provenance import git_state, new_manifest, package_versions
from sweeps.spec.plan import Plan, plan_from_json


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True).stdout


def test_the_commit_and_the_uncommitted_changes_are_told_apart(tmp_path: Path) -> None:
    assert git_state(tmp_path) == (None, None)
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert git_state(tmp_path) == (commit, None)
    (tmp_path / "code.py").write_text("a = 2\n")
    assert git_state(tmp_path)[0] == commit
    assert "+a = 2" in (git_state(tmp_path)[1] or "")


def test_a_manifest_holds_the_whole_plan_and_its_digest(toy_plan: Callable[..., Plan]) -> None:
    plan = toy_plan()
    manifest = new_manifest(plan, id="x", argv=["launch"], settings={"preset": "tiny"})
    assert plan_from_json(manifest.plan) == plan
    assert manifest.plan_digest == digest(manifest.plan)
    assert {"python", "pyarrow", "torch"} <= package_versions().keys()
