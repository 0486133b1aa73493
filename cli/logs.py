"""`logs`: what the ranks of a leg have written, as bytes go, on stdout.

Without a leg it is the running one, else the last that ran; followed without a leg, it continues with the next leg
until the experiment no longer runs.
"""

import codecs
import os
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli.completing import legs
from cli.options import Exp, Storage
from sweeps.spec.visible import visible

if TYPE_CHECKING:
    from sweeps.records.experiment import Experiment
    from sweeps.records.trial import TrialRecord

FOLLOW_S = 0.5
_CHUNK_BYTES = 2**20


def logs(
    exp: Exp,
    leg: Annotated[
        str | None,
        typer.Argument(metavar="LEG", help="Name of a leg. Default: the running or the last one.", autocompletion=legs),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new output.")] = False,
    storage: Storage = None,
) -> None:
    """Print a leg's log."""
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import find_experiment
    from sweeps.spec.errors import UsageError

    experiment = Experiment.open(find_experiment(exp, storage))
    if not experiment.store.is_local:
        raise UsageError(
            f"{experiment.uri} has no logs: object storage cannot append; the session folder of Ray holds the output"
        )
    candidates = trials_of(experiment, leg)
    if follow:
        _follow(experiment, candidates)
        return
    record = current(candidates)
    imported = candidates[0].imported() if len(candidates) == 1 else None
    if imported is not None:
        raise UsageError(
            f"{leg} was imported: its log is {imported.file}, lines {imported.first_line} to {imported.last_line}"
        )
    if record is None or not _Log(record).exists():
        raise UsageError(f"{leg or experiment.id} has no log yet; --follow waits for it while the experiment runs")
    _Log(record).copy()


def trials_of(experiment: "Experiment", leg: str | None) -> "list[TrialRecord]":
    """The trials that a user means by a trial's name, a leg's name or its beginning; all of them by None."""
    from sweeps.spec.errors import UsageError
    from sweeps.spec.names import nearest

    trials = experiment.plan.trials
    names = list(dict.fromkeys(trial.leg.name for trial in trials))
    begun = [name for name in names if leg is None or name.startswith(leg)]
    if leg is None or leg in names:
        chosen = [trial.name for trial in trials if leg in (None, trial.leg.name)]
    elif leg in {trial.name for trial in trials}:
        chosen = [leg]
    elif len(begun) == 1:
        chosen = [trial.name for trial in trials if trial.leg.name == begun[0]]
    elif begun:
        raise UsageError(f"{leg!r} fits {len(begun)} legs: {', '.join(begun)}; type one of them")
    else:
        raise UsageError(f"there is no leg {leg!r}{nearest(leg, names)}; legs: {', '.join(names)}")
    return [experiment.trial(name) for name in chosen]


def current(records: "list[TrialRecord]") -> "TrialRecord | None":
    """The trial that runs, else the one whose attempt started last; None before the first."""
    started = [(attempts[-1].started_utc, i) for i, r in enumerate(records) if (attempts := r.attempts())]
    chosen = max(((records[i].state() == "running", utc, i) for utc, i in started), default=None)
    return records[chosen[2]] if chosen else None


def _follow(experiment: "Experiment", candidates: "list[TrialRecord]") -> None:
    """Whether more can come is looked up before each copy, so that the last lines are not missed."""
    from cli.console import note
    from sweeps.records.documents import SETTLED_STATES

    log: _Log | None = None
    while True:
        is_over = experiment.owner() is None or (len(candidates) == 1 and candidates[0].state() in SETTLED_STATES)
        record = current(candidates)
        if record is not None and (log is None or log.trial != record.name):
            if log is not None:
                log.copy()
            if len(candidates) > 1:
                note(f"==> {record.name} <==")
            log = _Log(record)
        if log is not None:
            log.copy()
        if is_over:
            break
        time.sleep(FOLLOW_S)
    note(f"{experiment.id} is {experiment.state()}")


class _Log:
    """A log and how far it was copied."""

    def __init__(self, record: "TrialRecord") -> None:
        self.trial = record.name
        self._record = record
        self._num_bytes = 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def exists(self) -> bool:
        """Whether the leg has written anything."""
        return self._record.has_log()

    def copy(self) -> None:
        """Writes to stdout what has come since the last call; on a terminal without what would control it."""
        descriptor = self._record.read_log()
        if descriptor is None:
            return
        with os.fdopen(descriptor, "rb") as file:
            file.seek(self._num_bytes)
            while chunk := file.read(_CHUNK_BYTES):
                if sys.stdout.isatty():
                    sys.stdout.write(visible(self._decode(chunk)))
                else:
                    sys.stdout.buffer.write(chunk)
                self._num_bytes += len(chunk)
        sys.stdout.flush()
        sys.stdout.buffer.flush()
