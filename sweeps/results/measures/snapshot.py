"""An experiment as it stands in storage at one moment, read once.

Status, tables, figures and report are all pure functions of a snapshot: the same stored data gives the same bytes, and
what they say about one experiment agrees with itself even while it runs.
"""

from dataclasses import dataclass
from typing import Any

from sweeps.records.documents import AttemptRecord, ExperimentState, Manifest, Origin, TrialResult, TrialState
from sweeps.records.experiment import Experiment, experiment_state
from sweeps.records.rows import StepRow
from sweeps.spec.plan import Plan, Trial


@dataclass(frozen=True, kw_only=True)
class TrialSnapshot:
    """All that is stored of one trial."""

    trial: Trial
    run: str  # what people read: the leg's name where there is one block, else the trial's
    state: TrialState
    attempts: list[AttemptRecord]
    result: TrialResult | None
    rows: list[StepRow]  # each step once
    spans: dict[int, tuple[int, int]]  # attempt -> first and last step that it stored
    log_name: str
    origin: Origin | None = None  # set if another experiment ran it

    @property
    def facts(self) -> dict[str, Any]:
        """What the trainer said at its latest start; empty before the first."""
        known = [a.facts for a in self.attempts if a.facts is not None]
        return known[-1] if known else {}

    @property
    def fell_back(self) -> bool:
        """Whether steps of it ran uncompiled because compiling failed; then it is not the leg that it should be."""
        return any("fallback" in row.flags for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class PreflightLeg:
    """How a leg's few steps before the launch ended."""

    leg: str
    state: TrialState
    error: str | None  # of its last attempt
    fell_back: bool  # compiling failed, its steps ran uncompiled
    first_step_s: float | None
    peak_mib: float | None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that is stored of an experiment."""

    manifest: Manifest
    plan: Plan
    state: ExperimentState
    trials: list[TrialSnapshot]  # in plan order
    torn_files: tuple[str, ...]  # row parts that were not whole, relative to the experiment
    preflight: tuple["PreflightLeg", ...] = ()  # the few steps of every leg before the launch, if there were any

    def of_leg(self, leg: str) -> list[TrialSnapshot]:
        """The trials of one leg, by block."""
        return sorted((t for t in self.trials if t.trial.leg.name == leg), key=lambda t: t.trial.block)


def read_snapshot(experiment: Experiment) -> Snapshot:
    """Reads everything once. Works while the experiment runs."""
    owner_lives = experiment.owner() is not None
    plan = experiment.plan
    trials: list[TrialSnapshot] = []
    torn: list[str] = []
    for trial, record in zip(plan.trials, experiment.trials(), strict=True):
        state, attempts, result = record.progress(owner_lives=owner_lives)
        stored = record.stored_rows()
        torn += stored.torn
        trials.append(
            TrialSnapshot(
                trial=trial,
                run=trial.leg.name if plan.num_blocks == 1 else trial.name,
                state=state,
                attempts=attempts,
                result=result,
                rows=stored.rows,
                spans=stored.spans,
                log_name=record.log_name,
                origin=record.origin() if result is not None else None,
            )
        )
    return Snapshot(
        manifest=experiment.manifest,
        plan=plan,
        state=experiment_state([t.state for t in trials], owner_lives=owner_lives),
        trials=trials,
        torn_files=tuple(torn),
        preflight=_preflight(experiment),
    )


def _preflight(experiment: Experiment) -> tuple[PreflightLeg, ...]:
    """Read from the experiment that a launch makes for it inside the real one."""
    if not experiment.store.exists("preflight/manifest.json"):
        return ()
    short = Experiment.open(experiment.store.uri_of("preflight"))
    found: list[PreflightLeg] = []
    for trial, record in zip(short.plan.trials, short.trials(), strict=True):
        state, attempts, _ = record.progress(owner_lives=False)
        rows, error = record.rows(), attempts[-1].error if attempts else None
        found.append(
            PreflightLeg(
                leg=trial.leg.name,
                state=state,
                error=f"{error.type}: {error.message}" if error else None,
                fell_back=any("fallback" in row.flags for row in rows),
                first_step_s=rows[0].dt_ms / 1e3 if rows else None,
                peak_mib=max((row.peak_mib for row in rows), default=None),
            )
        )
    return tuple(found)
