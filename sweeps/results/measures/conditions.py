"""What two trials ran on, and whether that lets their numbers be compared.

Equal configs give equal mathematics on any hardware, so losses are compared whatever it was. Times and memory are
compared only between attempts with as many workers, the same card and the same kernels. Other code or other library
versions leave everything comparable, but only as advice. What is not known, as in older experiments, is not held
against anyone.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nanochat.config import get_field
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec.metrics import Metric
from sweeps.spec.words import counted

NO_CHANGES = hashlib.sha256().hexdigest()
"""The digest of the uncommitted changes of an attempt that had none."""


class Ran(Protocol):
    """What is known of the process that ran steps: an attempt of ours, or a run that a log describes."""

    @property
    def num_workers(self) -> int | None:
        """Ranks."""
        ...

    @property
    def facts(self) -> dict[str, Any] | None:
        """The trainer's facts at its start."""
        ...

    @property
    def git_commit(self) -> str | None:
        """Of the code."""
        ...

    @property
    def git_diff_digest(self) -> str | None:
        """Of its uncommitted changes."""
        ...

    @property
    def versions(self) -> dict[str, str] | None:
        """Of its packages."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Logged:
    """A run that was read from a log."""

    facts: dict[str, Any] | None
    num_workers: int | None = None
    git_commit: str | None = None
    git_diff_digest: str | None = None
    versions: dict[str, str] | None = None


# The kernels that a leg's own config asks for: where legs differ in that field, their kernels can differ.
_KERNEL_FIELDS = {"attention": "model.attention", "linears": "precision.linears", "experts": "precision.experts"}


def hardware_differences(metric: Metric, one: TrialSnapshot, other: TrialSnapshot) -> list[str]:
    """Why a metric is not compared between two trials; nothing if it can be."""
    if not metric.needs_equal_hardware:
        return []
    mine, theirs = _measured(metric, one), _measured(metric, other)
    roles = sorted({role for attempt in (*mine, *theirs) for role in kernels_of(attempt)})
    differences = [
        _difference(mine, theirs, _num_workers, lambda n: counted(n, "worker")),
        _difference(mine, theirs, _card, str),
        *(
            _difference(mine, theirs, lambda a, role=role: kernels_of(a).get(role), lambda k, role=role: f"{role} {k}")
            for role in roles
            if _asks_for_same_kernel(role, one, other)
        ),
    ]
    return [text for text in differences if text is not None]


def code_differences(one: TrialSnapshot, other: TrialSnapshot) -> list[str]:
    """In what the code and the libraries of two trials differ."""
    mine, theirs = one.stepped_attempts, other.stepped_attempts
    packages = sorted({name for attempt in (*mine, *theirs) for name in attempt.versions or {}})
    differences = [
        _difference(mine, theirs, lambda a: a.git_commit, lambda commit: f"commit {commit[:10]}"),
        _difference(mine, theirs, lambda a: a.git_diff_digest, _changes),
        *(
            _difference(mine, theirs, lambda a, p=p: (a.versions or {}).get(p), lambda v, p=p: f"{p} {v}")
            for p in packages
        ),
    ]
    return [text for text in differences if text is not None]


def commit_of(snapshot: Snapshot, trial: TrialSnapshot) -> str | None:
    """The commit that ran what is measured of a trial; older attempts only know that of the launch."""
    attempt = trial.measured_attempt
    if attempt is None:
        return None
    return attempt.git_commit or (trial.origin or snapshot.manifest).git_commit


def _measured(metric: Metric, trial: TrialSnapshot) -> Sequence[Ran]:
    """The attempts that a metric was measured in."""
    if trial.imported is not None:
        return [_Logged(facts=trial.imported.facts)]
    attempt = trial.measured_attempt
    if metric.read.over == "window":
        return [attempt] if attempt is not None else []
    return trial.stepped_attempts


def _difference(
    mine: Iterable[Ran],
    theirs: Iterable[Ran],
    of: Callable[[Ran], Any],
    words: Callable[[Any], str],
) -> str | None:
    """`2 workers against 1 worker`, if the known values of all these attempts are not one."""
    here, there = ([value for a in attempts if (value := of(a)) is not None] for attempts in (mine, theirs))
    if not here or not there or len({*here, *there}) == 1:
        return None
    return " against ".join(" then ".join(dict.fromkeys(map(words, values))) for values in (here, there))


def _num_workers(attempt: Ran) -> int | None:
    return (attempt.facts or {}).get("world_size") or attempt.num_workers


def _card(attempt: Ran) -> str | None:
    return (attempt.facts or {}).get("device_name")


def _changes(digest: str) -> str:
    return "no uncommitted changes" if digest == NO_CHANGES else f"uncommitted changes {digest[:10]}"


def kernels_of(attempt: Ran) -> dict[str, str]:
    """The kernel of each role; nothing before the trainer has said so."""
    return (attempt.facts or {}).get("backends") or {}


def _asks_for_same_kernel(role: str, one: TrialSnapshot, other: TrialSnapshot) -> bool:
    field = _KERNEL_FIELDS.get(role)
    return field is None or get_field(one.trial.config, field) == get_field(other.trial.config, field)
