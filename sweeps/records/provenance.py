"""Where a launch and each of its attempts came from: commit, uncommitted changes, versions that decide numbers.

Nothing of the environment goes in here, so no secret can.
"""

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from nanochat.config import digest
from sweeps.records.documents import Manifest, utc_now
from sweeps.spec.plan import Plan, plan_to_json

_PACKAGES = (
    *("nanochat-sweep", "torch", "torchao", "triton", "pytorch-triton", "quack-kernels", "flash-attn-4"),
    *("ray", "numpy", "pyarrow", "tiktoken", "rustbpe", "nvidia-ml-py"),
)
_CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Code:
    """What runs an attempt. None: not known, as outside a checkout."""

    git_commit: str | None
    git_diff_digest: str | None  # of all uncommitted changes; equal digests, equal changes
    versions: dict[str, str]


def new_manifest(plan: Plan, *, id: str, argv: list[str], settings: dict[str, Any]) -> Manifest:
    """The manifest of a plan that is about to be launched from this machine's code."""
    body = plan_to_json(plan)
    commit, diff = _own_state(_CHECKOUT)
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


def _own_state(checkout: Path) -> tuple[str | None, str | None]:
    """As `git_state`; nothing where the code is installed inside a checkout of something else."""
    is_tracked = _git(checkout, "ls-files", "--error-unmatch", "--", "nanochat") is not None
    return git_state(checkout) if is_tracked else (None, None)


def running_commit() -> str | None:
    """The commit of the code that runs here; None outside a checkout."""
    return _own_state(_CHECKOUT)[0]


def running_code(checkout: Path = _CHECKOUT) -> Code:
    """The code and the packages that a process started now would run."""
    commit, diff = _own_state(checkout)
    return Code(
        git_commit=commit,
        git_diff_digest=None if commit is None else _diff_digest(checkout, diff),
        versions=package_versions(),
    )


def _diff_digest(checkout: Path, diff: str | None) -> str:
    """sha256 of the diff and of the trainer's files that git does not know yet; of nothing where all is committed."""
    seen = hashlib.sha256((diff or "").encode(errors="surrogateescape"))
    listed = _git(checkout, "ls-files", "--others", "--exclude-standard", "-z", "--", "nanochat") or ""
    for name in sorted(filter(None, listed.split("\0"))):
        file = checkout / name
        if file.is_file():
            seen.update(f"\0{name}\0".encode(errors="surrogateescape") + file.read_bytes())
    return seen.hexdigest()


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
