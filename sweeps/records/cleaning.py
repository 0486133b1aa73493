"""Which checkpoints of an experiment nothing will read again, and their removal.

A completed or dropped trial never resumes, and continuing from an experiment copies no checkpoints. Of any other trial
only what a kill left half written can go.
"""

from dataclasses import dataclass

from sweeps.records.checkpoints import stored_checkpoints
from sweeps.records.documents import COMPLETED_STATES
from sweeps.records.experiment import Experiment
from sweeps.records.owner import Owner
from sweeps.records.store import Store
from sweeps.spec.errors import Locked


@dataclass(frozen=True)
class UnneededCheckpoints:
    """The checkpoints of a trial that can go, by their folders below its training storage."""

    trial: str
    state: str
    folders: tuple[str, ...]
    num_bytes: int


def unneeded_checkpoints(experiment: Experiment) -> list[UnneededCheckpoints]:
    """What `clean` deletes, in plan order; trials without any are left out."""
    found: list[UnneededCheckpoints] = []
    for record in experiment.trials():
        train, state = record.train_store, record.state()
        is_over = state in (*COMPLETED_STATES, "dropped")
        folders = [each.name for each in stored_checkpoints(train) if is_over or not each.is_complete]
        if folders:
            num_bytes = sum(_bytes_in(train, folder) for folder in folders)
            found.append(UnneededCheckpoints(record.name, state, tuple(folders), num_bytes))
    return found


def delete_unneeded(experiment: Experiment) -> list[UnneededCheckpoints]:
    """Deletes them and returns what they were. Raises Locked while a launch runs the experiment, OSError of storage."""
    check_cleanable(experiment)
    experiment.lock(Owner.this_process())
    try:
        found = unneeded_checkpoints(experiment)
        records = {record.name: record for record in experiment.trials()}
        for each in found:
            for folder in each.folders:
                records[each.trial].train_store.delete_tree(folder)
    finally:
        experiment.unlock()
    return found


def keep_newest(train: Store, num_kept: int) -> None:
    """Deletes all checkpoints of a trial but its newest complete ones."""
    stored = stored_checkpoints(train)
    complete = [each for each in stored if each.is_complete]
    for each in stored:
        if each not in complete[:num_kept]:
            train.delete_tree(each.name)


def check_cleanable(experiment: Experiment) -> None:
    """Raises Locked while a launch runs the experiment: it may be writing what looks half written."""
    owner = experiment.owner()
    if owner is not None:
        raise Locked(
            f"{experiment.uri} is in use by process {owner.pid} on {owner.host}; stop it first with "
            f"`nanochat-sweep stop {experiment.uri}`"
        )


def _bytes_in(train: Store, folder: str) -> int:
    return sum(num_bytes for num_bytes, _ in train.stamps(folder).values())
