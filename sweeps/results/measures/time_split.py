"""Where the wall time of a trial went: queue, start, compile, train, saves, lost to interruptions, and what is left.

A part is None if storage does not say. Steps that ran twice count as trained once; the time of the copy that was
superseded is lost, as is all else of an attempt that another one followed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from sweeps.records.clock import recorded_moment, seconds_between, wall_s
from sweeps.records.documents import AttemptRecord
from sweeps.records.steps import Steps
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot

PARTS = ("queue", "start", "compile", "train", "saves", "lost", "other")


@dataclass(frozen=True, kw_only=True)
class TimeSplit:
    """Seconds of one trial. Queue comes before its first attempt; the other parts add up to its attempts' time."""

    queue: float | None  # since the trial before, or since the launch
    start: float | None  # of processes, model and text, up to the first step
    compile: float  # steps that compiled, beyond what a step takes
    train: float
    saves: float  # training held up by them
    lost: float | None  # attempts and steps that were superseded, and the time between attempts
    other: float | None  # evaluation, samples, the last save, the end of the processes

    def seconds(self, part: str) -> float | None:
        """One of PARTS."""
        return getattr(self, part)


def time_split(snapshot: Snapshot, trial: TrialSnapshot) -> TimeSplit | None:
    """The split of a trial's time; None before its first step."""
    if not trial.attempts or not trial.steps:
        return None
    compiling = compile_seconds(trial.steps)
    stepped = _sum(trial.steps.floats("dt_ms")) / 1e3
    saves = _sum([ms or 0.0 for ms in trial.steps.known("checkpoint_ms")]) / 1e3
    starts = [_start_s(trial, attempt) for attempt in trial.stepped_attempts]
    start = sum(s for s in starts if s is not None) if None not in starts else None
    whole = [wall_s(attempt) for attempt in trial.attempts]
    used = None if start is None else start + stepped + saves
    last = trial.attempts[-1]
    lost, other = 0.0, None
    if len(trial.attempts) == 1:
        total = whole[0]
        other = max(0.0, total - used) if total is not None and used is not None else None
    else:
        total = seconds_between(trial.attempts[0].started_utc, last.ended_utc)
        lost = max(0.0, total - used) if total is not None and used is not None else None
    return TimeSplit(
        queue=_queue_s(snapshot, trial),
        start=start,
        compile=compiling,
        train=stepped - compiling,
        saves=saves,
        lost=lost,
        other=other,
    )


def typical_step_s(steps: Steps, counts: Sequence[bool]) -> float:
    """The median time of the steps that count, else of those that did not compile; 0 if no time is known."""
    graphs, times = steps.known("compiled_graphs"), steps.floats("dt_ms")
    known = [math.isfinite(ms) and ms > 0 for ms in times]
    chosen = [ms for ms, ok, does_count in zip(times, known, counts, strict=True) if ok and does_count]
    calm = [ms for ms, ok, number in zip(times, known, graphs, strict=True) if ok and not number]
    return median(chosen or calm) / 1e3 if chosen or calm else 0.0


def compile_seconds(steps: Steps) -> float:
    """What steps that compiled took beyond a typical step: the median of those that did not."""
    graphs = [number or 0 for number in steps.known("compiled_graphs")]
    times = [ms if math.isfinite(ms) else 0.0 for ms in steps.floats("dt_ms")]
    others = [ms for ms, number in zip(times, graphs, strict=True) if not number]
    typical = median(others) if others else 0.0
    return sum(max(0.0, ms - typical) for ms, number in zip(times, graphs, strict=True) if number) / 1e3


def _start_s(trial: TrialSnapshot, attempt: AttemptRecord) -> float | None:
    """From the start of an attempt to the start of its first step."""
    place = next((i for i, n in enumerate(trial.steps.ints("attempt")) if n == attempt.number), None)
    since = seconds_between(attempt.started_utc, attempt.first_step_utc)
    if since is None or place is None:
        return None
    return max(0.0, since - trial.steps.floats("dt_ms")[place] / 1e3)


def _queue_s(snapshot: Snapshot, trial: TrialSnapshot) -> float | None:
    """Since the last attempt that the same driver ended before, or since the launch if it is the first of all."""
    first = trial.attempts[0]
    begun = recorded_moment(first.started_utc)
    others = [a for other in snapshot.trials if other is not trial for a in other.attempts]
    ends = [
        end
        for a in others
        if (a.host, a.pid) == (first.host, first.pid)
        and (end := recorded_moment(a.ended_utc))
        and begun
        and end <= begun
    ]
    if ends and begun:
        return (begun - max(ends)).total_seconds()
    starts = [start for a in others if (start := recorded_moment(a.started_utc))]
    if begun and all(begun <= start for start in starts) and trial.origin is None:
        return seconds_between(snapshot.manifest.created_utc, first.started_utc)
    return None


def _sum(values: list[float]) -> float:
    return math.fsum(value for value in values if math.isfinite(value))
