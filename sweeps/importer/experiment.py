"""A folder of logs as an experiment in storage, which every command that reads results can read.

It is like one that ran here, with what logs do not say left open. It has nothing to run: its legs were run by another
trainer. A run without a command line keeps a config of defaults that nothing may show or compare; `why_no_config` says
so. The document that makes a trial an imported one is written last, so an import that was cut off is seen and redone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from nanochat.config import ConfigError, ScheduleConfig, TrainConfig
from nanochat.values import plain
from sweeps.importer.commands import config_of
from sweeps.importer.facts import facts_of
from sweeps.importer.folder import FoundRun, LogFolder
from sweeps.importer.rows import rows_of
from sweeps.records.documents import Imported
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.records.rows import StepRow
from sweeps.records.store import Store
from sweeps.spec.errors import CorruptData, UsageError
from sweeps.spec.legs import Leg, Role, difference
from sweeps.spec.names import nearest
from sweeps.spec.parts import Gate
from sweeps.spec.plan import MAX_BLOCKS, MAX_TRIALS, Plan, Trial

WINDOW_STEPS = 50
GATES = (Gate("tok_per_sec", improves="baseline"), Gate("peak_mib", at_most=1.05))
"""What logs allow to judge: speed and memory. The loss that they print is an average over time, no gate's metric."""


@dataclass(frozen=True, kw_only=True)
class ImportedRun:
    """One run with everything that is stored of it."""

    found: FoundRun
    config: TrainConfig
    why_no_config: str | None
    facts: dict[str, Any]
    rows: list[StepRow]
    lost: Counter[str]  # evaluations without a step, by why


def read_runs(folder: LogFolder) -> list[ImportedRun]:
    """The runs of a folder, ready to be stored."""
    runs: list[ImportedRun] = []
    for found in folder.runs:
        config, why = _config(found)
        facts = facts_of(found.run, found.command)
        rows, lost = rows_of(found.run, trial=_trial_name(found), facts=facts)
        runs.append(ImportedRun(found=found, config=config, why_no_config=why, facts=facts, rows=rows, lost=lost))
    return runs


def plan_of(runs: Sequence[ImportedRun], name: str, baseline: str | None, candidate: str | None) -> Plan:
    """The runs as legs of one block. Raises UsageError for a baseline or candidate that is none of them."""
    names = [run.found.name for run in runs]
    if len(names) > MAX_TRIALS:
        raise UsageError(f"{len(names):,} runs are more than the {MAX_TRIALS:,} that fit into one experiment")
    for option, leg in (("--baseline", baseline), ("--candidate", candidate)):
        if leg is not None and leg not in names:
            raise UsageError(f"{option}: there is no run {leg!r}{nearest(leg, names)}; runs: {', '.join(names)}")
    base = baseline or next((run.found.name for run in runs if run.found.state == "completed"), names[0])
    if candidate == base:
        raise UsageError(f"--candidate {candidate} is the baseline; name two runs with --baseline and --candidate")
    known = next((run.config for run in runs if run.found.name == base and run.why_no_config is None), None)
    legs = [_leg(run, base, candidate, known) for run in runs]
    sizes = {run.facts.get("world_size") for run in runs}
    return Plan(
        sweep=name,
        question="",
        num_workers=next(iter(sizes)) or 1 if len(sizes) == 1 else 1,
        num_blocks=1,
        max_blocks=MAX_BLOCKS,
        window_steps=WINDOW_STEPS,
        gates=GATES if candidate is not None else (),
        legs=tuple(legs),
        trials=tuple(
            Trial(name=_trial_name(run.found), leg=leg, block=1, config=run.config)
            for run, leg in zip(runs, legs, strict=True)
        ),
    )


def store_runs(root: str, id: str, folder: LogFolder, runs: Sequence[ImportedRun], plan: Plan) -> Experiment:
    """Writes the experiment. Raises UsageError if there is one of that name, unless its own import was cut off."""
    _remove_unfinished(root, id)
    manifest = new_manifest(plan, id=id, argv=[], settings={})
    manifest = replace(manifest, git_commit=None, git_diff=None, versions={}, imported_from=str(folder.path))
    experiment = Experiment.create(root, id, manifest)
    for run, trial in zip(runs, plan.trials, strict=True):
        record = experiment.trial(trial.name)
        record.append_rows(0, run.rows)
        record.write_imported(document_of(run))
    return experiment


def document_of(run: ImportedRun) -> Imported:
    """What is stored next to the rows of a run."""
    found = run.found
    states: dict[str, Literal["completed", "failed"]] = {"completed": "completed", "failed": "failed"}
    status = found.queued.exit_status
    of_queue = f"its queue says that it ended with status {status}" if status else None
    return Imported(
        file=str(found.log.path),
        sha256=found.log.sha256,
        first_line=found.run.first_line,
        last_line=found.run.last_line,
        state=states.get(found.state, "interrupted"),
        error=None if found.state != "failed" else found.run.error or of_queue,
        num_attempts=found.run.attempts,
        num_skipped_lines=sum(n for what, n in found.log.counts.items() if what.startswith("skipped: ")),
        command=list(found.command.argv) if found.command else None,
        why_no_config=run.why_no_config,
        facts=run.facts,
        started_utc=found.queued.started_utc,
        ended_utc=found.queued.ended_utc,
    )


def _config(found: FoundRun) -> tuple[TrainConfig, str | None]:
    """The run's config, or one of defaults and why no more is known."""
    if found.command is None:
        why = f"its command line is not known: neither in the log nor in {found.log.path.stem}.cmd.txt"
    else:
        try:
            return config_of(found.command.argv), None
        except ConfigError as error:
            why = f"its command line is not one of this trainer: {error}"
    steps = max((found.run.num_steps or 0, *(step + 1 for step in found.run.steps)), default=1) or 1
    try:
        return TrainConfig(schedule=ScheduleConfig(num_steps=steps)), why
    except ConfigError:
        return TrainConfig(), why


def _leg(run: ImportedRun, baseline: str, candidate: str | None, known: TrainConfig | None) -> Leg:
    name = run.found.name
    role: Role = "baseline" if name == baseline else "candidate" if name == candidate else "grid"
    is_comparable = known is not None and run.why_no_config is None
    overrides = difference(run.config, known) if is_comparable and known is not None else {}
    return Leg(
        name=name,
        id=f"{name}-{run.found.log.sha256[:8]}",
        role=role,
        overrides={path: plain(value) for path, value in overrides.items()},
        config=run.config,
    )


def _trial_name(found: FoundRun) -> str:
    return f"{found.name}-b1"


def _remove_unfinished(root: str, id: str) -> None:
    """Removes what an import of the same name left when it was cut off."""
    store = Store(root)
    if not store.exists(f"{id}/manifest.json"):
        return
    try:
        experiment = Experiment.open(store.uri_of(id))
        is_cut_off = experiment.manifest.imported_from is not None and any(
            record.imported() is None for record in experiment.trials()
        )
    except CorruptData:
        return
    if is_cut_off:
        store.delete_tree(id)
