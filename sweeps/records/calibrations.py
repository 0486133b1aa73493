"""Calibrations below a storage root, and whether one fits what another experiment ran on.

A calibration says how much runs of one leg differ. It is bound to the card, the host, the number of workers, the
versions and the length of the window: if one of them is another, the runs can differ more or less than was measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sweeps.records.documents import AttemptRecord, Calibration, from_bytes, to_bytes
from sweeps.records.experiment import Experiment
from sweeps.records.home import list_experiments
from sweeps.records.store import Store
from sweeps.spec.errors import SweepToolError
from sweeps.spec.words import counted

MEASURED = "calibration.json"
"""In the experiment that measured it."""
USED = "floor.json"
"""In an experiment that uses it, stored before its first look at the gates."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the runs of an experiment ran on. None: not known, then it is not held against a calibration."""

    num_workers: int
    window_steps: int
    host: str | None
    device_name: str | None
    versions: dict[str, str] | None

    @classmethod
    def of(cls, attempt: AttemptRecord, window_steps: int) -> "Conditions":
        """Those of an attempt."""
        facts = attempt.facts or {}
        return cls(
            num_workers=facts.get("world_size") or attempt.num_workers,
            window_steps=window_steps,
            host=attempt.ran_on,
            device_name=facts.get("device_name"),
            versions=attempt.versions,
        )


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """The calibration to use, if there is one, and why others are stale."""

    calibration: Calibration | None = None
    stale: tuple[str, ...] = ()


def why_stale(calibration: Calibration, seen: Conditions) -> list[str]:
    """In what the conditions differ from those of the calibration; nothing if it fits."""
    reasons: list[str] = []
    if seen.device_name is not None and calibration.device_name not in (None, seen.device_name):
        reasons.append(f"card {calibration.device_name}, here {seen.device_name}")
    if seen.host is not None and calibration.host != seen.host:
        reasons.append(f"host {calibration.host}, here {seen.host}")
    if calibration.num_workers != seen.num_workers:
        reasons.append(f"{counted(calibration.num_workers, 'worker')}, here {seen.num_workers}")
    if calibration.window_steps != seen.window_steps:
        reasons.append(f"a window of {counted(calibration.window_steps, 'step')}, here {seen.window_steps}")
    for name, version in sorted((seen.versions or {}).items()):
        if calibration.versions.get(name, version) != version:
            reasons.append(f"{name} {calibration.versions[name]}, here {version}")
    return reasons


class Calibrations:
    """Those below one root, read once, newest first."""

    def __init__(self, root: str) -> None:
        self._root = root

    @cached_property
    def all(self) -> list[Calibration]:
        """Every calibration that can be read."""
        return self._read[0]

    @cached_property
    def _read(self) -> tuple[list[Calibration], list[str]]:
        store, found, damaged = Store(self._root), list[Calibration](), list[str]()
        try:
            names = list_experiments(self._root)
        except SweepToolError:
            return [], []
        for name in names:
            try:
                found.append(from_bytes(Calibration, store.read(f"{name}/{MEASURED}"), f"{name}/{MEASURED}"))
            except (FileNotFoundError, PermissionError):
                continue
            except SweepToolError as error:
                damaged.append(f"calibration {name}: {error}")
        return sorted(found, key=lambda c: c.measured_utc, reverse=True), damaged

    def fitting(self, seen: Conditions, but: str | None = None) -> Fitting:
        """The newest calibration that fits; without one, why those that there are do not.

        `but`: an experiment whose own calibration is not taken.
        """
        others = [calibration for calibration in self.all if calibration.experiment != but]
        for calibration in others:
            if not why_stale(calibration, seen):
                return Fitting(calibration=calibration)
        stale = [f"calibration {c.experiment}: {', '.join(why_stale(c, seen))}" for c in others[:3]]
        return Fitting(stale=(*stale, *self._read[1]))


def used_by(experiment: Experiment) -> Calibration | None:
    """The calibration that an experiment has bound itself to. Raises CorruptData if its copy is damaged."""
    try:
        data = experiment.store.read(USED)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return from_bytes(Calibration, data, experiment.store.uri_of(USED))


def bind(experiment: Experiment, calibration: Calibration) -> None:
    """From now on the experiment uses this calibration, wherever its folder is moved."""
    experiment.store.write(USED, to_bytes(calibration))


def root_of(experiment: Experiment) -> str:
    """The folder or address that holds the experiment."""
    return experiment.uri.rpartition("/")[0] or "/"


def conditions_of(attempts: Sequence[AttemptRecord], window_steps: int) -> Conditions | None:
    """The conditions of the first attempt that has told its facts; None before that."""
    known = [attempt for attempt in attempts if attempt.facts is not None]
    return Conditions.of(known[0], window_steps) if known else None
