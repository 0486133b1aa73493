"""A manifest says which code ran, down to uncommitted changes."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from nanochat.config import digest
from sweeps.records.checkout import OWN_FILE
from sweeps.records.provenance import new_manifest, package_versions, running_code
from sweeps.spec.plan import Plan, plan_from_json


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True).stdout


def test_a_manifest_holds_the_whole_plan_and_its_digest(toy_plan: Callable[..., Plan]) -> None:
    plan = toy_plan()
    manifest = new_manifest(plan, id="x", argv=["launch"], settings={"preset": "tiny"})
    assert plan_from_json(manifest.plan) == plan
    assert manifest.plan_digest == digest(manifest.plan)
    assert {"python", "pyarrow", "torch"} <= package_versions().keys()


def test_equal_code_has_equal_digests_and_every_change_shows(tmp_path: Path) -> None:
    assert (running_code(tmp_path).git_commit, running_code(tmp_path).git_diff_digest) == (None, None)
    (tmp_path / "nanochat").mkdir()
    (tmp_path / "nanochat" / "code.py").write_text("a = 1\n")
    (tmp_path / OWN_FILE).parent.mkdir(parents=True)
    (tmp_path / OWN_FILE).write_text("")
    (tmp_path / "strange.py").write_text("")
    git(tmp_path, "init")
    git(tmp_path, "add", "strange.py")
    git(tmp_path, "commit", "-m", "x")
    assert running_code(tmp_path).git_commit is None  # a checkout of something else, into which this was installed
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    clean = running_code(tmp_path)
    assert running_code(tmp_path) == clean
    assert {"python", "torch", "numpy", "ray"} <= clean.versions.keys()

    (tmp_path / "nanochat" / "code.py").write_text("a = 2\n")
    changed = running_code(tmp_path)
    (tmp_path / "nanochat" / "new.py").write_text("b = 1\n")
    with_new = running_code(tmp_path)
    (tmp_path / "nanochat" / "new.py").write_text("b = 2\n")
    assert len({c.git_diff_digest for c in (clean, changed, with_new, running_code(tmp_path))}) == 4
    assert {c.git_commit for c in (clean, changed, with_new)} == {clean.git_commit}

    (tmp_path / "nanochat" / "new.py").unlink()
    git(tmp_path, "checkout", "nanochat/code.py")
    assert running_code(tmp_path) == clean
