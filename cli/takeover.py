"""`launch --continue-from`: what a new experiment reuses, of another experiment or of a folder of logs."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanochat.stats import TextFacts
    from sweeps.records.continuation import Choice
    from sweeps.records.experiment import Experiment
    from sweeps.spec.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Takeover:
    """Which legs come from where."""

    source: "Experiment"
    choice: "Choice"
    folder: Any = None  # that holds the source while it is needed, if it was imported for this


def choose_takeover(exp: str, storage: str | None, plan: "Plan", texts: "dict[str | None, TextFacts]") -> Takeover:
    """What to reuse, printed on stderr. Raises UsageError if that is nothing."""
    from cli.console import note
    from sweeps.records.continuation import choose_completed
    from sweeps.spec.errors import UsageError

    source, folder = _source(exp, storage)
    choice = choose_completed(source, plan, texts)
    reasons = "; ".join(f"{trial}: {reason}" for trial, reason in choice.left.items())
    if not choice.taken:
        raise UsageError(f"--continue-from {source.id} has no leg to take over ({reasons}); leave the option out")
    logs = choice.logged
    taken = [f"{trial} (log {logs[trial].removesuffix('-b1')})" if trial in logs else trial for trial in choice.taken]
    note(f"taken over from {source.manifest.imported_from or source.id}: {', '.join(taken)}")
    if reasons:
        note(f"to be run: {reasons}")
    return Takeover(source=source, choice=choice, folder=folder)


def _source(exp: str, storage: str | None) -> "tuple[Experiment, Any]":
    """The experiment that is meant, or one made of the logs in a folder, which lasts as long as the second value."""
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import find_experiment, list_experiments, storage_root

    folder = Path(exp).expanduser()
    is_id = "/" not in exp and exp in list_experiments(storage_root(storage))
    if is_id or not folder.is_dir() or (folder / "manifest.json").exists() or not any(folder.glob("*.log")):
        return Experiment.open(find_experiment(exp, storage)), None
    from sweeps.importer.experiment import plan_of, read_runs, store_runs
    from sweeps.importer.folder import read_folder

    found = read_folder(folder.absolute())
    runs = read_runs(found)
    place = tempfile.TemporaryDirectory(prefix="nanochat-sweep-logs-")
    return store_runs(place.name, "logs", found, runs, plan_of(runs, "logs", None, None)), place
