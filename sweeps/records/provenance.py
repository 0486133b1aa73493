"""Where a launch came from: the code's commit and uncommitted changes, and the versions that decide numbers.

Nothing of the environment goes in here, so no secret can.
"""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from nanochat.config import digest
from sweeps.records.documents import Manifest, utc_now
from sweeps.spec.plan import Plan, plan_to_json

_PACKAGES = ("nanochat-sweep", "torch", "torchao", "ray", "pyarrow", "tiktoken", "rustbpe")


def new_manifest(plan: Plan, *, id: str, argv: list[str], settings: dict[str, Any]) -> Manifest:
    """The manifest of a plan that is about to be launched from this machine's code."""
    body = plan_to_json(plan)
    commit, diff = git_state(Path(__file__).parent)
    return Manifest(
        id=id,
        sweep=plan.sweep,
        created_utc=utc_now(),
        argv=argv,
        git_commit=commit,
        git_diff=diff,
        versions=package_versions(),
        plan=body,
        plan_digest=digest(body),
        settings=settings,
    )


def git_state(folder: Path) -> tuple[str | None, str | None]:
    """The commit of the checkout around `folder` and the diff of what is not committed; None for what is not there."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None, None
    return commit.strip(), _git(folder, "diff", "HEAD") or None


def running_commit() -> str | None:
    """The commit of the code that runs here; None outside a checkout."""
    return git_state(Path(__file__).parent)[0]


def package_versions() -> dict[str, str]:
    """Python's version and those of the installed packages that decide numbers."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
