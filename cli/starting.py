"""What `launch` and `calibrate` share: checking the place, creating the experiment, running it for the first time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.running import LaunchOptions
    from cli.takeover import Takeover
    from sweeps.records.checkpoints import Keep
    from sweeps.records.documents import Manifest
    from sweeps.records.experiment import Experiment
    from sweeps.spec.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where a new experiment will be, and where others are looked for."""

    id: str
    root: str
    storage: str | None  # as typed


def new_id(name: str | None, plan: "Plan") -> str:
    """The experiment's id. Raises SweepError for one that cannot name a folder."""
    from datetime import datetime

    from sweeps.records.home import new_experiment_id
    from sweeps.spec.names import check_name

    return check_name("experiment", new_experiment_id(plan.sweep, datetime.now()) if name is None else name)


def checked_root(storage: str | None, plan: "Plan", *, keep: "Keep", detach: bool, preflight: bool | None) -> str:
    """Where experiments are kept. Raises UsageError if this one does not fit there, or cannot run in the background."""
    from cli.detached import check_detachable
    from sweeps.engine.cluster.checks import check_disk, free_bytes
    from sweeps.records.home import storage_root

    root = storage_root(storage)
    check_disk(plan, keep, root, free_bytes(root))
    check_detachable(root, detach, preflight=bool(preflight))
    return root


def run_new(experiment: "Experiment", options: "LaunchOptions", *, cluster: str, preflight: bool | None) -> int:
    """Runs it all. If there is no cluster for it, nothing has run, so nothing is left behind."""
    from cli.running import run_and_tell
    from sweeps.records.store import Store
    from sweeps.spec.errors import NoCluster

    num_workers = experiment.plan.num_workers
    try:
        return run_and_tell(experiment, options, cluster=cluster, num_workers=num_workers, preflight=preflight)
    except NoCluster:
        root, _, folder = experiment.uri.rpartition("/")
        Store(root).delete_tree(folder)
        raise


def create_experiment(root: str, manifest: "Manifest", takeover: "Takeover | None") -> "Experiment":
    """The new experiment with what it takes over."""
    from cli.console import waiting_for
    from sweeps.records.continuation import copy
    from sweeps.records.experiment import Experiment
    from sweeps.records.store import Store
    from sweeps.spec.errors import UsageError

    experiment = Experiment.create(root, manifest.id, manifest)
    if takeover is not None:
        experiment.lock()  # no restore runs what is not whole yet
        try:
            with waiting_for(f"{takeover.source.id} to be copied"):
                copy(takeover.source, experiment, takeover.choice.taken, takeover.choice.logged)
        except OSError as error:
            experiment.unlock()
            Store(root).delete_tree(manifest.id)
            raise UsageError(f"legs of {takeover.source.id} cannot be copied: {error}; nothing was launched") from None
        experiment.unlock()
    return experiment
