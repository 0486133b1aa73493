"""What the verbs over stored experiments share: finding one, naming damaged files, a sentence for a failed write."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeps.records.experiment import Experiment
    from sweeps.results.measures.snapshot import Snapshot


def open_snapshot(name: str, storage: str | None) -> "tuple[Experiment, Snapshot]":
    """The experiment that a user means and what is stored of it now."""
    from cli.console import warn
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import find_experiment
    from sweeps.results.measures.snapshot import read_snapshot

    experiment = Experiment.open(find_experiment(name, storage))
    snapshot = read_snapshot(experiment, keep=experiment.store.is_local)
    for trial in snapshot.trials:
        if trial.damage is not None:
            warn(f"{trial.run} is left out: {trial.damage}")
    for file in snapshot.torn_files:
        warn(f"{experiment.store.uri_of(file)} is torn: its whole lines are used, the rest is ignored")
    return experiment, snapshot


def print_files(verb: str, experiments: list[str], files: list[str], *, as_json: bool) -> None:
    """The files that a command has written, one a line or as JSON."""
    from cli.console import out

    if as_json:
        document = {"schema": f"nanochat-sweep/{verb}/1", "experiments": experiments, "files": files}
        out(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        out("\n".join(files))


@contextmanager
def writing(option: str) -> Generator[None]:
    """Turns a failed write of results into one sentence; `option` is what names another place."""
    from sweeps.spec.errors import UsageError

    try:
        yield
    except OSError as error:
        raise UsageError(f"the results cannot be written: {error}; choose another place with {option}") from None
