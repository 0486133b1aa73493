"""A new experiment that takes over the legs that another one has completed, and so has only the rest to run.

What is taken is copied: rows, attempts, config, log and result, but no checkpoints. So the new folder is whole by
itself, can be moved, and outlives the old one. `origin.json` next to each copy says which experiment ran it, and
everything that shows the leg says so too. A leg is taken only if its whole resolved config is the same, it ran on as
many workers, and it read the text that is there now: all else would not be comparable.

Legs that were imported from logs are matched by config too, whatever they are called there. A log says neither seed nor
text, nor what only our trainer knows, so those fields do not count; and the leg stays marked as imported, so that
nothing binding is said of it. A log without its command line has no known config: none of it is taken.

The origin is written first and the result last. A copy that was cut off in between has one without the other; it is
removed, and the leg runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nanochat.config import digest, field_paths, get_field
from nanochat.stats import TextFacts
from sweeps.records.documents import AttemptRecord, Imported, Origin, to_bytes, utc_now
from sweeps.records.experiment import Experiment
from sweeps.records.layout import TrialFolders
from sweeps.records.store import Store
from sweeps.records.texts import difference_of, recorded_text
from sweeps.spec.plan import Plan, Trial

_UNSAID = ("data.source", "compile.fallback", "eval.num_tokens", "eval.core_bundle", "eval.core_max_per_task")
"""What a log does not say, besides everything in `run`, or what changes no training."""
_NO_CONFIG = "its config is not known"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which trials of a plan another experiment has completed."""

    taken: tuple[str, ...]
    left: dict[str, str] = field(default_factory=dict[str, str])  # trial -> why it is run
    logged: dict[str, str] = field(default_factory=dict[str, str])  # trial -> its name among imported ones


def choose_completed(source: Experiment, plan: Plan, texts: Mapping[str | None, TextFacts]) -> Choice:
    """What a new experiment with this plan can take from `source`.

    `texts` is what each `data.source` holds now, as far as it is known here.
    """
    if source.manifest.imported_from is not None:
        return _choose_logged(source, plan)
    reasons = {trial.name: _why_not(source, trial, plan.num_workers, texts) for trial in plan.trials}
    return Choice(
        taken=tuple(name for name, reason in reasons.items() if reason is None),
        left={name: reason for name, reason in reasons.items() if reason is not None},
    )


def copy(
    source: Experiment, target: Experiment, trials: tuple[str, ...], logged: Mapping[str, str] | None = None
) -> None:
    """Copies completed trials from one experiment into a new one."""
    for name, there in (logged or {}).items():
        _copy_logged(source, target, name, there)
    for name in trials:
        if logged and name in logged:
            continue
        origin = source.trial(name).origin() or Origin(
            experiment=source.id, git_commit=source.manifest.git_commit, copied_utc=utc_now()
        )
        folders = target.trial(name).folders
        target.store.write(folders.origin, to_bytes(origin))
        for path in _files(source.store, folders):
            target.store.write(path, source.store.read(path))
        target.store.write(folders.result, source.store.read(folders.result))


def drop_unfinished_copies(experiment: Experiment) -> None:
    """Removes copies that were cut off. Raises Locked while they are being made."""
    unfinished = [
        r.name for r in experiment.trials() if r.origin() is not None and r.result() is None and r.imported() is None
    ]
    if not unfinished:
        return
    experiment.lock()
    try:
        for name in unfinished:
            experiment.store.delete_tree(experiment.trial(name).folders.root)
    finally:
        experiment.unlock()


def _choose_logged(source: Experiment, plan: Plan) -> Choice:
    """The first imported run with a trial's config and number of workers, each for one trial."""
    imported = {there.name: source.trial(there.name).imported() for there in source.plan.trials}
    logged, left = dict[str, str](), dict[str, str]()
    for trial in plan.trials:
        reasons: dict[str, str] = {}
        for there in source.plan.trials:
            if there.name in logged.values():
                continue
            reason = _why_not_logged(imported[there.name], there, trial, plan.num_workers)
            if reason is None:
                logged[trial.name] = there.name
                break
            reasons[there.leg.name] = reason
        if trial.name not in logged:
            left[trial.name] = _reasons_in_short(reasons)
    return Choice(taken=tuple(logged), left=left, logged=logged)


def _reasons_in_short(reasons: Mapping[str, str]) -> str:
    """Why no log serves: what differs in three of them, and how many have no known config."""
    known = [f"{leg}: {reason}" for leg, reason in reasons.items() if reason != _NO_CONFIG]
    unknown = len(reasons) - len(known)
    words = [*known[:3], *(["..."] if known[3:] else [])]
    words += [f"{unknown} without a known command line"] if unknown else []
    return f"no log fits ({'; '.join(words)})" if words else "no log is left"


def _why_not_logged(imported: Imported | None, there: Trial, trial: Trial, num_workers: int) -> str | None:
    if imported is None:
        return "it was not read to its end"
    if imported.why_no_config is not None:
        return _NO_CONFIG
    for path in field_paths():
        old, new = get_field(there.config, path), get_field(trial.config, path)
        if old != new and path not in _UNSAID and not path.startswith("run."):
            return f"{path} is {old!r} there, {new!r} here"
    if imported.state != "completed":
        return f"it is {imported.state}"
    seen = imported.facts.get("world_size")
    if seen != num_workers:
        return f"it ran on {seen if seen is not None else 'an unknown number of'} workers, {num_workers} here"
    return None


def _copy_logged(source: Experiment, target: Experiment, name: str, there: str) -> None:
    record, seen = target.trial(name), source.trial(there)
    imported = seen.imported()
    assert imported is not None, "only imported trials are chosen"
    origin = Origin(experiment=source.manifest.imported_from or source.id, git_commit=None, copied_utc=utc_now())
    target.store.write(record.folders.origin, to_bytes(origin))
    record.append_rows(0, [replace(row, trial=name) for row in seen.rows()])
    record.write_imported(imported)


def _files(store: Store, folders: TrialFolders) -> list[str]:
    within = [f"{folder}/{name}" for folder in (folders.attempts, folders.rows) for name in store.list(folder)]
    single = [path for path in (folders.config, folders.log) if store.exists(path)]
    return [path for path in (*within, *single) if path.endswith((".json", ".jsonl", ".txt"))]


def _why_not(source: Experiment, trial: Trial, num_workers: int, texts: Mapping[str | None, TextFacts]) -> str | None:
    there = next((t for t in source.plan.trials if t.name == trial.name), None)
    if there is None:
        return f"{source.id} has no such leg"
    if digest(there.config) != digest(trial.config):
        return _difference(there, trial)
    record = source.trial(trial.name)
    result = record.result()
    if result is None or result.status != "completed":
        return f"it is {record.state()} there"
    attempts = record.attempts()
    if not attempts:
        return "its attempts are not there any more"
    seen = attempts[-1].num_workers
    if seen != num_workers:
        return f"it ran on {seen} workers there, on {num_workers} here"
    return _other_text(attempts, texts.get(trial.config.data.source))


def _other_text(attempts: Sequence[AttemptRecord], now: TextFacts | None) -> str | None:
    """Which other text the attempts read; None too if it is not known."""
    read = [text for attempt in attempts if (text := recorded_text(attempt)) is not None]
    difference = difference_of(read[-1], now) if read and now else ""
    return f"{difference} is not what is there now" if difference else None


def _difference(there: Trial, here: Trial) -> str:
    for path in field_paths():
        old, new = get_field(there.config, path), get_field(here.config, path)
        if old != new:
            return f"{path} is {old!r} there, {new!r} here"
    return "its config is not the same there"
