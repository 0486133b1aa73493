"""An experiment as it stands in storage at one moment, read once.

Status, tables, figures and report are all pure functions of a snapshot: the same stored data gives the same bytes, and
what they say about one experiment agrees with itself even while it runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from sweeps.records.calibrations import Calibrations, Fitting, conditions_of, root_of, used_by
from sweeps.records.documents import (
    SETTLED_STATES,
    AttemptRecord,
    BlockMove,
    Calibration,
    ExperimentState,
    Imported,
    Manifest,
    Origin,
    TrialResult,
    TrialState,
)
from sweeps.records.experiment import Experiment, experiment_state
from sweeps.records.steps import Steps
from sweeps.records.trial import TrialRecord
from sweeps.results.measures.summary import Summary, decoded, encoded, key_of, summarize
from sweeps.results.measures.trial import Measures, timing_window
from sweeps.spec.errors import CorruptData, SweepToolError
from sweeps.spec.plan import Plan, Trial


@dataclass(frozen=True, kw_only=True)
class TrialSnapshot:
    """All that is stored of one trial, and its numbers, each computed once."""

    trial: Trial
    run: str  # what people read: the leg's name if there is one block, else the trial's
    state: TrialState | Literal["damaged"]
    attempts: list[AttemptRecord]
    result: TrialResult | None
    steps: Steps  # each once
    spans: dict[int, tuple[int, int]]  # attempt -> first and last step that it stored
    torn: tuple[str, ...] = ()  # row parts that were not whole, relative to the experiment
    log_name: str
    window_steps: int  # of the plan
    origin: Origin | None = None  # set if another experiment ran it
    imported: Imported | None = None  # set if it was not run here but read from a log
    stamp: str = ""  # of the rows that were read
    kept: Summary | None = None  # the stored summary, if there is one of these rows
    damage: str | None = None  # why its files could not be read; then nothing else is known of it

    @property
    def is_over(self) -> bool:
        """Whether it went to its end: then its losses can be judged."""
        return self.result is not None or self.state == "completed"

    @cached_property
    def summary(self) -> Summary:
        """What the steps amount to; reads them only if no summary is stored."""
        return self.kept or summarize(
            self.steps, self.window_steps, is_over=self.is_over, spans=self.spans, torn=self.torn
        )

    @cached_property
    def counted(self) -> list[bool]:
        """For each step whether its time counts."""
        return self.summary.counted

    @cached_property
    def window(self) -> Steps:
        """The timing window; no steps if there is none."""
        return timing_window(self.steps, self.counted, self.window_steps)

    @property
    def measures(self) -> Measures:
        """The trial's numbers."""
        return self.summary.measures

    @property
    def diverged(self) -> str | None:
        """Why the trial has learnt nothing, if so. It is compared with no other then."""
        return self.summary.diverged

    @cached_property
    def measured_attempt(self) -> AttemptRecord | None:
        """The attempt that ran the timing window; without one that of the last step, before that the last attempt."""
        timed, last = self.summary.window_attempt, self.summary.last_attempt
        number = last if timed is None else timed
        by_number = {attempt.number: attempt for attempt in self.attempts}
        return next(reversed(self.attempts), None) if number is None else by_number.get(number)

    @property
    def stepped_attempts(self) -> list[AttemptRecord]:
        """The attempts whose steps are the trial's, without those that were superseded altogether."""
        numbers = self.summary.attempts
        return [attempt for attempt in self.attempts if attempt.number in numbers]

    @property
    def facts(self) -> dict[str, Any]:
        """What the trainer said when the measured attempt started, or any at all; empty before the first start."""
        if self.imported is not None:
            return self.imported.facts
        known = [a.facts for a in (*self.attempts, self.measured_attempt) if a is not None and a.facts is not None]
        return known[-1] if known else {}

    def shown(self, metric: str) -> float | None:
        """A number under the name that training logs use: of an imported trial the utilisation that its log prints."""
        is_printed = self.imported is not None and metric == "tail50_bf16_mfu_pct"
        return self.measures["tail50_bf16_mfu_printed_pct" if is_printed else metric]

    @property
    def has_known_config(self) -> bool:
        """False if it was read from a log that does not say its command line."""
        return self.imported is None or self.imported.why_no_config is None

    @property
    def node(self) -> str | None:
        """The node that its last attempt was bound to; None if it was bound to none."""
        return self.attempts[-1].node if self.attempts else None

    @property
    def num_attempts(self) -> int:
        """How often it was started."""
        return len(self.attempts) if self.imported is None else self.imported.num_attempts

    @property
    def fell_back(self) -> bool:
        """Whether steps of it ran uncompiled because compiling failed; then it is not the leg that it should be."""
        return self.summary.fell_back

    @property
    def fallback_reason(self) -> str | None:
        """Why an attempt ran uncompiled, if compiling failed in any."""
        told = [attempt.facts.get("compile_fallback") for attempt in self.attempts if attempt.facts]
        return next((why for why in told if why), None)


@dataclass(frozen=True, kw_only=True)
class PreflightLeg:
    """How a leg's few steps before the launch ended."""

    leg: str
    state: TrialState | Literal["damaged"]
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
    uri: str = ""  # where it is; for messages alone, a report is the same wherever the experiment is
    moves: tuple[BlockMove, ...] = ()  # of blocks that left a node
    preflight: tuple["PreflightLeg", ...] = ()  # the few steps of every leg before the launch, if there were any
    find_calibration: Callable[[], Fitting] = Fitting  # looks below the storage root, which can take a while

    @cached_property
    def _fitting(self) -> Fitting:
        return self.find_calibration()

    @property
    def calibration(self) -> Calibration | None:
        """The calibration of the spread between runs that fits what this experiment ran on."""
        return self._fitting.calibration

    @property
    def stale_calibrations(self) -> tuple[str, ...]:
        """Why others do not fit; empty with one that does."""
        return self._fitting.stale

    def of_leg(self, leg: str) -> list[TrialSnapshot]:
        """The trials of one leg, by block."""
        return self._by_leg.get(leg, [])

    def knows_config_of(self, leg: str) -> bool:
        """False for a leg that was read from a log without its command line."""
        return all(trial.has_known_config for trial in self.of_leg(leg))

    @cached_property
    def _by_leg(self) -> dict[str, list[TrialSnapshot]]:
        legs: dict[str, list[TrialSnapshot]] = {}
        for trial in sorted(self.trials, key=lambda t: t.trial.block):
            legs.setdefault(trial.trial.leg.name, []).append(trial)
        return legs


def read_snapshot(experiment: Experiment, *, keep: bool = False) -> Snapshot:
    """Reads everything once. Works while the experiment runs; a trial that cannot be read is there as damaged.

    With `keep` the summary and the columns of each trial that has ended are stored for the next reader, if they are
    not there yet. Nothing but time depends on them, so a storage that refuses them is no error.
    """
    owner_lives = experiment.owner() is not None
    trials = [
        _guarded(trial, record, experiment.plan, owner_lives, keep)
        for trial, record in zip(experiment.plan.trials, experiment.trials(), strict=True)
    ]
    states: list[TrialState] = ["interrupted" if t.state == "damaged" else t.state for t in trials]
    return Snapshot(
        manifest=experiment.manifest,
        plan=experiment.plan,
        state=experiment_state(states, owner_lives=owner_lives),
        trials=trials,
        torn_files=tuple(file for trial in trials for file in trial.torn),
        uri=experiment.uri,
        moves=_moves(experiment),
        preflight=_preflight(experiment),
        find_calibration=lambda: _calibration(experiment, trials),
    )


def _moves(experiment: Experiment) -> tuple[BlockMove, ...]:
    """Those that can be read; they explain, and no number depends on them."""
    try:
        return tuple(experiment.moves())
    except CorruptData:
        return ()


def _calibration(experiment: Experiment, trials: list[TrialSnapshot]) -> Fitting:
    """The one that the experiment is bound to, else the newest below the same root that fits."""
    try:
        bound = used_by(experiment)
        if bound is not None:
            return Fitting(calibration=bound)
        attempts = [attempt for trial in trials for attempt in trial.attempts]
        seen = conditions_of(attempts, experiment.plan.window_steps)
        return Fitting() if seen is None else Calibrations(root_of(experiment)).fitting(seen, but=experiment.id)
    except (SweepToolError, OSError) as error:
        return Fitting(stale=(str(error),))


def _guarded(trial: Trial, record: TrialRecord, plan: Plan, owner_lives: bool, keep: bool) -> TrialSnapshot:
    """A trial. Whatever it holds, the other trials are read."""
    empty = TrialSnapshot(
        trial=trial,
        run=trial.leg.name if plan.num_blocks == 1 else trial.name,
        state="damaged",
        attempts=[],
        result=None,
        steps=Steps(),
        spans={},
        log_name=record.folders.log,
        window_steps=plan.window_steps,
    )
    try:
        read = _read_trial(empty, record, owner_lives)
        return _kept(read, record) if keep else read
    except OSError:
        raise
    except Exception as error:
        known = isinstance(error, SweepToolError)
        return replace(empty, damage=str(error) if known else f"{type(error).__name__}: {error}")


def _read_trial(empty: TrialSnapshot, record: TrialRecord, owner_lives: bool) -> TrialSnapshot:
    state, attempts, result = record.progress(owner_lives=owner_lives)
    trial = replace(
        empty,
        state=state,
        attempts=attempts,
        result=result,
        stamp=record.stamp_of_rows(),
        origin=record.origin() if result is not None or not attempts else None,
        imported=record.imported() if result is None and not attempts else None,
    )
    kept = _kept_summary(record, trial) if state in SETTLED_STATES else None
    if kept is not None:
        return _by_summary(trial, record, kept)
    stored = record.steps()
    trial = replace(trial, steps=stored.steps, spans=stored.spans, torn=stored.torn)
    trial.measures.of_metric.keys()  # computed here, where a trial that defies it harms no other
    return trial


def _kept_summary(record: TrialRecord, trial: TrialSnapshot) -> Summary | None:
    data = record.read_summary()
    return None if data is None else decoded(data, _key(trial))


def _key(trial: TrialSnapshot) -> str:
    return key_of(trial.stamp, trial.window_steps, is_over=trial.is_over)


def _by_summary(trial: TrialSnapshot, record: TrialRecord, summary: Summary) -> TrialSnapshot:
    """The trial with its stored summary; its steps are read when one is asked for."""
    stamp = trial.stamp  # and not the trial, whose steps are to go
    later = Steps.later(summary.num_steps, lambda: record.kept_steps(stamp) or record.steps().steps)
    return replace(trial, kept=summary, steps=later, spans=summary.spans_by_attempt, torn=summary.torn)


def _kept(trial: TrialSnapshot, record: TrialRecord) -> TrialSnapshot:
    """The trial with its summary stored, if it has ended and storage takes it; its steps are let go of."""
    if trial.state not in SETTLED_STATES or trial.kept is not None:
        return trial
    try:
        record.keep_steps(trial.steps, trial.stamp)
        record.write_summary(encoded(trial.summary, _key(trial)))
    except (OSError, CorruptData):  # a link in its place is not written through
        return trial
    return _by_summary(trial, record, trial.summary)


def _preflight(experiment: Experiment) -> tuple[PreflightLeg, ...]:
    """Read from the experiment that a launch makes for it inside the real one."""
    if not experiment.store.exists("preflight/manifest.json"):
        return ()
    try:
        return _preflight_legs(experiment)
    except SweepToolError as error:
        whole = PreflightLeg(
            leg="all", state="damaged", error=str(error), fell_back=False, first_step_s=None, peak_mib=None
        )
        return (whole,)


def _preflight_legs(experiment: Experiment) -> tuple[PreflightLeg, ...]:
    short = Experiment.open(experiment.store.uri_of("preflight"))
    found: list[PreflightLeg] = []
    for trial, record in zip(short.plan.trials, short.trials(), strict=True):
        state, attempts, _ = record.progress(owner_lives=False)
        steps, error = record.steps().steps, attempts[-1].error if attempts else None
        found.append(
            PreflightLeg(
                leg=trial.leg.name,
                state=state,
                error=f"{error.type}: {error.message}" if error else None,
                fell_back=any("fallback" in flags for flags in steps.flags),
                first_step_s=steps.floats("dt_ms")[0] / 1e3 if steps else None,
                peak_mib=max(steps.floats("peak_mib"), default=None),
            )
        )
    return tuple(found)
