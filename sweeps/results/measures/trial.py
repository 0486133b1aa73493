"""What a trial's steps amount to: which count for timing, and the numbers that people compare.

`tail50` is the reference's statistic: plain means over the last 50 logged steps, or over all if there are fewer,
whatever happened in them. The window is ours: the last N *counted* steps of one attempt, and a trimmed mean of the
logarithm of their times, so that one hiccup neither hides nor decides. A step is never left out for being slow, only
for a reason that the trainer told: warm-up, a recompilation and its aftermath, a checkpoint or evaluation before it, a
slow-down of a GPU that begins or ends.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.throttle import FLAG, slowdown
from sweeps.records.steps import Steps
from sweeps.spec.metrics import METRICS, Over, Reading, Statistic
from sweeps.spec.words import counted

TAIL_STEPS = 50
_TRIM = 0.10  # of each end
_COUNTING = ((), (FLAG,))


@dataclass(frozen=True, kw_only=True)
class Measures:
    """The numbers of one trial: those of the table of metrics by name, None if nothing was measured, and counts."""

    of_metric: dict[str, float | None]
    steps_observed: int
    last_step: int | None
    num_counted_steps: int
    num_skipped_steps: int  # whose gradient was not finite

    def __getitem__(self, metric: str) -> float | None:
        return self.of_metric[metric]


def measure(steps: Steps, counts: Sequence[bool], window: Steps, window_steps: int) -> Measures:
    """All numbers of a trial with these steps, each once and in order, of which some count for timing."""
    spans: dict[Over, Steps] = {
        "window": window,
        "last_n": steps[-window_steps:],
        "tail50": steps[-TAIL_STEPS:],
        "all": steps,
    }
    return Measures(
        of_metric={metric.name: _read(metric.read, spans[metric.read.over]) for metric in METRICS},
        steps_observed=len(steps),
        last_step=steps.ints("step")[-1] if steps else None,
        num_counted_steps=sum(counts),
        num_skipped_steps=sum("skipped" in flags for flags in steps.flags),
    )


def counts_for_timing(steps: Steps) -> list[bool]:
    """For each step whether its time counts: it does unless the trainer saw a reason against it, such as warm-up.

    Steps of a GPU that is slowed down all the time count, or only its cool moments would; a step in which that began,
    changed or ended is half of each and does not.
    """
    slowed = slowdowns(steps)
    before = [*slowed[:1], *slowed[:-1]]
    return [flags in _COUNTING and last == now for flags, last, now in zip(steps.flags, before, slowed, strict=True)]


def slowdowns(steps: Steps) -> list[int]:
    """The reasons for which each step's GPUs were slowed down, as bits; 0 for none."""
    return [slowdown(None if bits is None else int(bits)) for bits in steps.known("gpu_throttle_bits")]


def num_recompilations(steps: Steps) -> int:
    """How often a graph was compiled after the steps that follow an attempt's first compilation."""
    flagged = zip(steps.ints("attempt"), ("recompile" in flags for flags in steps.flags), strict=True)
    pairs = itertools.pairwise(flagged)
    return sum(now and not before for (last, before), (attempt, now) in pairs if attempt == last)


def timing_window(steps: Steps, counts: Sequence[bool], window_steps: int) -> Steps:
    """The last `window_steps` counted steps if there are as many and one attempt ran them all, else none."""
    places = [place for place, does_count in enumerate(counts) if does_count][-window_steps:]
    window = steps.take(places)
    is_whole = len(window) == window_steps and len(set(window.ints("attempt"))) == 1
    return window if is_whole and all(0 < ms < math.inf for ms in window.floats("dt_ms")) else Steps()


def why_untimed(steps: Steps, counts: Sequence[bool], window_steps: int) -> str:
    """What keeps steps, of which some count, from having a timing window."""
    num_counted = sum(counts)
    why = f"{num_counted} of {counted(len(steps), 'step')} count, the window has {window_steps}"
    if num_counted >= window_steps:
        times = [ms for ms, does_count in zip(steps.floats("dt_ms"), counts, strict=True) if does_count][-window_steps:]
        is_measurable = all(0 < ms < math.inf for ms in times)
        why = (
            f"the last {window_steps} steps that count are not all of one attempt"
            if is_measurable
            else f"among the last {window_steps} steps that count is one whose time is not a positive number"
        )
    beside_saves = sum("checkpoint" in flags for flags in steps.flags)
    verb = "was" if beside_saves == 1 else "were"
    return why + (f"; {counted(beside_saves, 'step')} {verb} beside a save" if beside_saves else "")


def trimmed_mean(values: Sequence[float]) -> float:
    """The mean without the lowest and the highest tenth."""
    cut = int(len(values) * _TRIM)
    kept = sorted(values)[cut : len(values) - cut]
    return math.fsum(kept) / len(kept)


def exp(value: float) -> float:
    """e to the power of a number, infinite if no float holds it."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _read(reading: Reading, steps: Steps) -> float | None:
    values = [value for value in steps.known(reading.column) if value is not None]
    return _statistic(reading.statistic, values) * reading.scale if values else None


def _statistic(statistic: Statistic, values: Sequence[float]) -> float:
    """NaN if any value is: a number that does not exist must not vanish behind a comparison."""
    if any(map(math.isnan, values)):
        return math.nan
    match statistic:
        case "mean":
            return sum(values) / len(values)
        case "trimmed_geometric_mean":
            is_measurable = all(0 < value < math.inf for value in values)
            return exp(trimmed_mean([math.log(value) for value in values])) if is_measurable else math.nan
        case "last":
            return values[-1]
        case "highest":
            return max(values)
        case "lowest":
            return min(values)
