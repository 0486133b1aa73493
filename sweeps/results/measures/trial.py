"""What a trial's steps amount to: which count for timing, and the means that people compare.

`tail50` is the reference's statistic: plain means over the last 50 logged steps, or over all where there are fewer,
whatever happened in them. The window is ours: the last N *counted* steps of one attempt, and a trimmed mean of the
logarithm of their times, so that one hiccup neither hides nor decides. A step is never left out for being slow, only
for a reason that the trainer told: warm-up, a recompilation and its aftermath, a checkpoint or evaluation before it, a
slow-down of a GPU that begins or ends.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nanochat.throttle import FLAG, slowdown
from sweeps.records.rows import StepRow

TAIL_STEPS = 50
_TRIM = 0.10  # of each end
_COUNTING = ((), (FLAG,))


@dataclass(frozen=True, kw_only=True)
class Measures:
    """The numbers of one trial; None where nothing was measured."""

    steps_observed: int
    last_step: int | None
    last_loss: float | None  # the debiased average of the log line, at the last step
    loss: float | None  # raw mean over the last N steps
    dropped_pct: float | None  # mean over the last N steps
    tail50_tok_per_sec: float | None
    tail50_bf16_mfu_pct: float | None
    tail50_dt_ms: float | None
    dt_ms: float | None  # over the window of N counted steps; None without such a window
    tok_per_sec: float | None
    bf16_mfu_pct: float | None  # plain mean over the same window, as the next
    useful_mfu_pct: float | None
    num_counted_steps: int
    num_skipped_steps: int  # whose gradient was not finite
    peak_mib: float | None
    total_time_min: float | None  # steps > 10
    min_val_bpb: float | None


def measure(rows: Sequence[StepRow], window_steps: int) -> Measures:
    """All numbers of a trial whose steps are `rows`, each once and in order."""
    tail, last_n = rows[-TAIL_STEPS:], rows[-window_steps:]
    window = timing_window(rows, window_steps)
    dt_ms = math.exp(trimmed_mean([math.log(r.dt_ms) for r in window])) if window else None
    tokens = window[-1].tok_per_sec * window[-1].dt_ms / 1000 if window else 0.0
    return Measures(
        steps_observed=len(rows),
        last_step=rows[-1].step if rows else None,
        last_loss=rows[-1].loss_ema if rows else None,
        loss=_mean(last_n, lambda r: r.loss),
        dropped_pct=_mean(last_n, lambda r: r.dropped_pct),
        tail50_tok_per_sec=_mean(tail, lambda r: r.tok_per_sec),
        tail50_bf16_mfu_pct=_mean(tail, lambda r: r.bf16_mfu_pct),
        tail50_dt_ms=_mean(tail, lambda r: r.dt_ms),
        dt_ms=dt_ms,
        tok_per_sec=tokens / dt_ms * 1000 if dt_ms else None,
        bf16_mfu_pct=_mean(window, lambda r: r.bf16_mfu_pct),
        useful_mfu_pct=_mean(window, lambda r: r.useful_mfu_pct),
        num_counted_steps=sum(counted(rows)),
        num_skipped_steps=sum("skipped" in row.flags for row in rows),
        peak_mib=max((r.peak_mib for r in rows), default=None),
        total_time_min=rows[-1].train_time_s / 60 if rows else None,
        min_val_bpb=min((r.val_bpb for r in rows if r.val_bpb is not None), default=None),
    )


def counted(rows: Sequence[StepRow]) -> list[bool]:
    """For each row whether its time counts: where the trainer saw no reason against it, warm-up included.

    Steps of a GPU that is slowed down all the time count, or only its cool moments would; a step in which that began,
    changed or ended is half of each and does not.
    """
    slowed = [slowdown(row.gpu_throttle_bits) for row in rows]
    before = [*slowed[:1], *slowed[:-1]]
    return [row.flags in _COUNTING and last == now for row, last, now in zip(rows, before, slowed, strict=True)]


def num_recompilations(rows: Sequence[StepRow]) -> int:
    """How often a graph was compiled after the steps that follow an attempt's first compilation."""
    flagged = [(row.attempt, "recompile" in row.flags) for row in rows]
    pairs = itertools.pairwise(flagged)
    return sum(now and not before for (last, before), (attempt, now) in pairs if attempt == last)


def timing_window(rows: Sequence[StepRow], window_steps: int) -> list[StepRow]:
    """The last `window_steps` counted steps if there are as many and one attempt ran them all, else nothing."""
    window = [row for row, counts in zip(rows, counted(rows), strict=True) if counts][-window_steps:]
    whole = len(window) == window_steps and len({r.attempt for r in window}) == 1
    return window if whole and all(r.dt_ms > 0 for r in window) else []


def trimmed_mean(values: Sequence[float]) -> float:
    """The mean without the lowest and the highest tenth."""
    cut = int(len(values) * _TRIM)
    kept = sorted(values)[cut : len(values) - cut]
    return math.fsum(kept) / len(kept)


def minutes_to_loss(rows: Iterable[StepRow], target: float) -> float | None:
    """Training time (steps > 10) until the averaged loss first is at most `target`; None if it never is."""
    return next((r.train_time_s / 60 for r in rows if r.loss_ema <= target), None)


def _mean(rows: Sequence[StepRow], of: Callable[[StepRow], float | None]) -> float | None:
    values = [v for v in map(of, rows) if v is not None]
    return sum(values) / len(values) if values else None
