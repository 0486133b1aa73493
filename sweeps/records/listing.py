"""Which experiments are under a root, and their states. One that cannot be understood is listed too, as damaged.

A folder counts as an experiment when it holds a manifest, or trials without one: then the manifest was lost. Whatever
else lies there is not ours.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sweeps.records.clock import recorded_moment
from sweeps.records.documents import ExperimentState
from sweeps.records.experiment import Experiment
from sweeps.records.home import holds
from sweeps.records.store import Store
from sweeps.spec.errors import SweepToolError, UsageError

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One experiment of a listing. `id` is its folder's name: what a user types."""

    id: str
    path: str
    sweep: str | None
    state: ExperimentState | Literal["damaged"]
    started_utc: str | None
    damage: str | None = None  # why it, or a trial in it, cannot be read


def describe_experiments(root: str) -> list[Listed]:
    """All experiments under a root, oldest first by their recorded start, those without one before all others.

    Raises UsageError where the root is no folder.
    """
    store = Store(root)
    path = store.local_path()
    if path is not None and path.exists() and not path.is_dir():
        raise UsageError(f"storage {root} is a file; give a folder or an address with --storage")
    try:
        names = [name for name in store.list() if _is_experiment(store, name)]
    except OSError as error:
        raise UsageError(f"storage {root} cannot be read: {error}; choose another place with --storage") from None
    return sorted((_describe(name, store.uri_of(name)) for name in names), key=_age)


def _age(listed: Listed) -> tuple[float, str]:
    """What an experiment is ordered by. Clocks can be wrong and times damaged, so equal ones go by their ids."""
    started = recorded_moment(listed.started_utc)
    return (-math.inf if started is None else (started - _FIRST).total_seconds(), listed.id)


def _is_experiment(store: Store, name: str) -> bool:
    return holds(store, name, "manifest.json") or holds(store, name, "trials")


def _describe(id: str, uri: str) -> Listed:
    try:
        experiment = Experiment.open(uri)
        manifest, (state, damage) = experiment.manifest, experiment.state_and_damage()
        return Listed(
            id=id,
            path=uri,
            sweep=manifest.sweep,
            state=state,
            started_utc=manifest.created_utc,
            damage="; ".join(damage) or None,
        )
    except (SweepToolError, OSError) as error:
        return Listed(id=id, path=uri, sweep=None, state="damaged", started_utc=None, damage=str(error))
