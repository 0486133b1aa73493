"""Where a launch and each of its attempts came from: commit, uncommitted changes, versions that decide numbers.

Nothing of the environment goes in here, so no secret can. Of a repository only this project's own files do: a package
that is installed inside another project's checkout knows nothing of it, and one that is part of a larger checkout
stores changes of its own folders alone.
"""

import hashlib
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from nanochat.config import digest
from sweeps.records.checkout import Checkout
from sweeps.records.documents import Manifest, utc_now
from sweeps.spec.plan import Plan, plan_to_json

_PACKAGES = (
    *("nanochat-sweep", "torch", "torchao", "triton", "pytorch-triton", "quack-kernels", "flash-attn-4"),
    *("ray", "numpy", "pyarrow", "tiktoken", "rustbpe", "nvidia-ml-py"),
)
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class CodeVersion:
    """What runs an attempt. None: not known, as outside a checkout."""

    git_commit: str | None
    git_diff_digest: str | None  # of all uncommitted changes; equal digests, equal changes
    versions: dict[str, str]


def new_manifest(plan: Plan, *, id: str, argv: list[str], settings: dict[str, Any]) -> Manifest:
    """The manifest of a plan that is about to be launched from this machine's code."""
    body = plan_to_json(plan)
    here = Checkout(_ROOT)
    commit = here.commit()
    return Manifest(
        id=id,
        sweep=plan.sweep,
        created_utc=utc_now(),
        argv=argv,
        git_commit=commit,
        git_diff=here.diff() if commit else None,
        versions=package_versions(),
        plan=body,
        plan_digest=digest(body),
        settings=settings,
    )


@dataclass(frozen=True, kw_only=True)
class WorkingTree:
    """Where the code that runs here is, and what is checked out there. None: not known, as outside a checkout."""

    folder: str
    branch: str | None  # None too if no branch is checked out
    commit: str | None
    has_changes: bool | None


def running_place() -> WorkingTree:
    """The checkout of the code that runs here."""
    here = Checkout(_ROOT)
    commit = here.commit()
    return WorkingTree(
        folder=str(_ROOT),
        branch=here.branch() if commit else None,
        commit=commit,
        has_changes=here.diff() is not None if commit else None,
    )


def running_commit() -> str | None:
    """The commit of the code that runs here; None outside a checkout."""
    return Checkout(_ROOT).commit()


def why_unknown() -> str | None:
    """Why the commit of the code that runs here is not known, if git refuses to say it."""
    return Checkout(_ROOT).refusal()


def running_code(root: Path = _ROOT) -> CodeVersion:
    """The code and the packages that a process started now would run."""
    here = Checkout(root)
    commit = here.commit()
    return CodeVersion(
        git_commit=commit,
        git_diff_digest=_diff_digest(here) if commit else None,
        versions=package_versions(),
    )


def _diff_digest(here: Checkout) -> str:
    """sha256 of the diff and of the trainer's files that git does not know yet; of nothing where all is committed."""
    seen = hashlib.sha256((here.diff() or "").encode(errors="surrogateescape"))
    for name in here.new_files("nanochat"):
        file = here.root / name
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
