"""The loss of two trials after equally long training: a leg that is faster has taken more steps by then.

Training time is the time of its steps. A step that compiled counts as a typical one: how warm a cache was says nothing
about a leg.
"""

import math
from bisect import bisect_right
from itertools import accumulate

from sweeps.results.measures.snapshot import TrialSnapshot
from sweeps.results.measures.time_split import typical_step_s


def loss_ratio_at_equal_time(trial: TrialSnapshot, reference: TrialSnapshot) -> float | None:
    """A trial's loss over the reference's, at the end of the one that trained for the shorter time.

    Losses are means over the last window steps until then. None if a loss or a time is not a positive number.
    """
    mine, theirs = _clock(trial), _clock(reference)
    if not mine or not theirs:
        return None
    end = min(mine[-1], theirs[-1])
    one, other = _loss_at(trial, mine, end), _loss_at(reference, theirs, end)
    if one is None or other is None:
        return None
    return one / other


def _clock(trial: TrialSnapshot) -> list[float]:
    """Seconds of training at the end of each step; nothing if a time is not known."""
    graphs, times = trial.steps.known("compiled_graphs"), trial.steps.floats("dt_ms")
    typical = typical_step_s(trial.steps, trial.counted)
    seconds = [typical if number else ms / 1e3 for number, ms in zip(graphs, times, strict=True)]
    return list(accumulate(seconds)) if all(0 < s < math.inf for s in seconds) else []


def _loss_at(trial: TrialSnapshot, clock: list[float], end: float) -> float | None:
    """The mean loss of the window that ends there; the last step that has ended by then counts, and at least one."""
    place = max(1, bisect_right(clock, end * (1 + 1e-9)))
    losses = trial.steps.floats("loss")[max(0, place - trial.window_steps) : place]
    mean = math.fsum(losses) / len(losses)
    return mean if 0 < mean < math.inf else None
