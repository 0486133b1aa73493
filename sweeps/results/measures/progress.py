"""How far a running experiment is, read again and again: what a live display shows.

Made to be cheap: part files never change, so each is read once, and a completed trial is not looked at again. Of the
rows only the last few of the present attempt are kept. Estimates are plain: steps left times the median step.
"""

from dataclasses import dataclass, field, replace
from statistics import median
from typing import Literal

from nanochat.sizes import num_steps
from sweeps.records.clock import wall_s
from sweeps.records.documents import COMPLETED_STATES, AttemptRecord, ExperimentState, TrialState
from sweeps.records.experiment import Experiment, experiment_state
from sweeps.records.row_parts import NewSteps
from sweeps.records.steps import Steps
from sweeps.records.trial import TrialRecord
from sweeps.results.measures.divergence import why_diverged
from sweeps.results.measures.trial import TAIL_STEPS
from sweeps.spec.errors import CorruptData

_LONGEST_S = 1e9  # beyond, an estimate is no estimate


@dataclass(frozen=True, kw_only=True)
class LegProgress:
    """One trial at one moment. None: not known yet."""

    name: str  # the leg's if there is one block, else the trial's
    state: TrialState | Literal["damaged"]
    num_done: int  # steps
    num_steps: int
    is_starting: bool = False  # a worker group is on its way, no model yet
    loss: float | None = None  # averaged, as in the log line
    tok_per_sec: float | None = None
    seconds_left: float | None = None  # of a running one
    has_diverged: bool = False  # it ran to its end and learnt nothing
    node: str | None = None  # that its block is bound to; None: bound to none, or not started

    @property
    def shown_state(self) -> str:
        """The state as people read it."""
        return "starting" if self.is_starting else "diverged" if self.has_diverged else self.state


@dataclass(frozen=True, kw_only=True)
class ExperimentProgress:
    """An experiment at one moment."""

    id: str
    state: ExperimentState
    legs: tuple[LegProgress, ...]  # in plan order
    seconds_left: float | None

    @property
    def num_completed(self) -> int:
        """Legs that will never run again."""
        return sum(leg.state in COMPLETED_STATES for leg in self.legs)

    @property
    def done_fraction(self) -> float:
        """Steps done over steps that will be; what a failed or dropped leg left undone counts in neither."""
        total = sum(leg.num_done if leg.state in ("failed", "dropped") else leg.num_steps for leg in self.legs)
        return sum(leg.num_done for leg in self.legs) / total if total else 1.0


@dataclass
class _Seen:
    """What was read of a trial so far."""

    record: TrialRecord
    name: str
    num_steps: int
    steps: NewSteps
    recent: Steps = field(default_factory=Steps)  # the last few of the last attempt
    settled: LegProgress | None = None
    wall_s: float = 0.0  # of all attempts of a completed trial


class ProgressReader:
    """Reads an experiment's progress; keeps what cannot change."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._window_steps = experiment.plan.window_steps
        self._seen = self._trials()
        self._num_moves = 0

    def _trials(self) -> list[_Seen]:
        plan = self._experiment.plan
        return [
            _Seen(
                record,
                trial.leg.name if plan.num_blocks == 1 else trial.name,
                num_steps(trial.config),
                record.new_steps(),
            )
            for trial, record in zip(plan.trials, self._experiment.trials(), strict=True)
        ]

    def read(self) -> ExperimentProgress:
        """The progress now."""
        num_moves = self._experiment.num_moves() if self._has_nodes() else 0
        if self._experiment.has_grown() or num_moves != self._num_moves:  # a move opens completed trials again
            self._seen, self._num_moves = self._trials(), num_moves
        owner_lives = self._experiment.owner() is not None
        legs = tuple(seen.settled or self._leg_or_damage(seen, owner_lives) for seen in self._seen)
        states: list[TrialState] = ["interrupted" if leg.state == "damaged" else leg.state for leg in legs]
        return ExperimentProgress(
            id=self._experiment.id,
            state=experiment_state(states, owner_lives=owner_lives),
            legs=legs,
            seconds_left=self._seconds_left(legs),
        )

    def _has_nodes(self) -> bool:
        """True if some settled trial ran on a node of its block, as only these can run again."""
        return any(seen.settled is not None and seen.settled.node is not None for seen in self._seen)

    def _leg_or_damage(self, seen: _Seen, owner_lives: bool) -> LegProgress:
        """A leg whose files cannot be read says so and keeps no other from being shown."""
        try:
            return self._leg(seen, owner_lives)
        except CorruptData:
            return LegProgress(name=seen.name, state="damaged", num_done=0, num_steps=seen.num_steps)

    def _leg(self, seen: _Seen, owner_lives: bool) -> LegProgress:
        state, attempts, result = seen.record.progress(owner_lives=owner_lives)
        is_imported = not attempts and state in (*COMPLETED_STATES, "failed", "interrupted")
        if attempts or is_imported:
            seen.recent = newest(Steps.joined([seen.recent, seen.steps.read()]))
        leg = _progress(seen, state, attempts)
        if result is not None or is_imported:
            has_diverged = why_diverged(seen.record.steps().steps, self._window_steps, is_over=True) is not None
            leg = replace(leg, has_diverged=has_diverged)
            seen.settled, seen.wall_s = leg, sum(wall_s(attempt) or 0.0 for attempt in attempts)
        return leg

    def _seconds_left(self, legs: tuple[LegProgress, ...]) -> float | None:
        """The running leg's own estimate, and the rest at the pace of completed legs, their start-up included."""
        completed = [seen for seen in self._seen if seen.settled is not None and seen.wall_s > 0]
        running = [leg for leg in legs if leg.state == "running"]
        open_steps = sum(leg.num_steps - leg.num_done for leg in legs if leg.state in ("pending", "interrupted"))
        if any(leg.seconds_left is None for leg in running) or not (running or open_steps):
            return None
        num_lanes = max(1, len(running))  # legs side by side share what is left
        of_running = sum(leg.seconds_left or 0.0 for leg in running) / num_lanes
        if completed:
            per_step_s = sum(s.wall_s for s in completed) / sum(s.num_steps for s in completed)
            return _finite(of_running + open_steps * per_step_s / num_lanes)
        if not running:
            return None
        seconds_per_step = [_step_s(seen) for seen, leg in zip(self._seen, legs, strict=True) if leg in running]
        return _finite(of_running + open_steps * median(seconds_per_step) / num_lanes)


def newest(steps: Steps) -> Steps:
    """The last few steps of the latest attempt among these, in order."""
    attempts, numbers = steps.ints("attempt"), steps.ints("step")
    latest = max(attempts, default=0)
    of_latest = {number: place for place, number in enumerate(numbers) if attempts[place] == latest}
    return steps.take([of_latest[number] for number in sorted(of_latest)[-TAIL_STEPS:]])


def _progress(seen: _Seen, state: TrialState, attempts: list[AttemptRecord]) -> LegProgress:
    recent = seen.recent
    attempt = attempts[-1] if attempts else None
    last_attempt, last_step = ([0, *recent.ints("attempt")][-1], [-1, *recent.ints("step")][-1])
    is_fresh = bool(attempt and recent and last_attempt != attempt.number)  # this attempt has stored no row yet
    num_done = min(last_step + 1, seen.num_steps)
    if is_fresh and attempt is not None and attempt.first_step is not None:
        num_done = attempt.first_step
    has_pace = state == "running" and bool(recent) and not is_fresh
    return LegProgress(
        name=seen.name,
        state=state,
        is_starting=state == "running" and attempt is not None and attempt.facts is None,
        num_done=num_done,
        num_steps=seen.num_steps,
        loss=recent.floats("loss_ema")[-1] if recent else None,
        tok_per_sec=sum(recent.floats("tok_per_sec")) / len(recent) if recent else None,
        seconds_left=_finite((seen.num_steps - num_done) * _step_s(seen)) if has_pace else None,
        node=attempt.node if attempt is not None else None,
    )


def _finite(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= _LONGEST_S else None


def _step_s(seen: _Seen) -> float:
    return median(seen.recent.floats("dt_ms")) / 1000
