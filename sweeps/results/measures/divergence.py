"""Whether a trial has diverged: it can run to its end, and fast, and has learnt nothing."""

import math

from nanochat.stats import WARMUP_STEPS
from sweeps.records.steps import Steps

# Predicting every token as equally likely costs the same on any text. A run that collapsed to that ends a hair below
# its first loss, which the initial weights put a hair above.
_LEAST_FALL = 0.001  # of the first loss


def why_diverged(steps: Steps, window_steps: int, *, is_over: bool) -> str | None:
    """What shows that the steps learn nothing; None if they do, or if that cannot be said yet.

    A loss in the last `window_steps` that is not a finite number, or, once the trial is over, their mean not at least
    0.1 % below the loss of the first step.
    """
    averaged = steps.known("loss_ema")
    known = (e if loss is None else loss for loss, e in zip(steps.known("loss"), averaged, strict=True))
    losses = [loss for loss in known if loss is not None]  # a log has averages only
    tail = losses[-window_steps:]
    num_lost = sum(not math.isfinite(loss) for loss in tail)
    if num_lost:
        return f"the loss is not a finite number in {num_lost} of the last {len(tail)} steps"
    if not is_over or len(losses) <= max(WARMUP_STEPS, window_steps) or not math.isfinite(losses[0]):
        return None
    last = sum(tail) / len(tail)
    if last < losses[0] * (1 - _LEAST_FALL):
        return None
    start = f"{losses[0]:.4f} at the start"
    return f"the mean loss of the last {len(tail)} steps is {last:.4f}, no better than {start}"
