"""How many steps of a leg can count for timing, known before anything has run.

The first steps of a start never count, nor does one right after a save or an evaluation. More can be lost to
recompilation, slow saves or a restart, so this is the most there can be.
"""

from nanochat.config import TrainConfig
from nanochat.sizes import num_steps
from nanochat.stats import WARMUP_STEPS
from sweeps.spec.errors import SweepError
from sweeps.spec.legs import Leg


def countable_steps(config: TrainConfig, checkpoint_every: int | None) -> int:
    """The most steps that can count for timing in a run without interruption."""
    intervals = (checkpoint_every, config.eval.every, config.eval.core_every, config.eval.sample_every)
    steps = range(WARMUP_STEPS, num_steps(config))
    if len(steps) > 1_000_000:  # so many that what a save takes away is counted without looking at each
        return max(0, len(steps) - sum(len(steps) // every for every in intervals if every is not None))
    return sum(not any(every and step % every == 0 for every in intervals) for step in steps)


def check_window(leg: Leg, checkpoint_every: int | None, window_steps: int) -> None:
    """Raises SweepError where the tail window cannot be filled. A run too short for any timing is let through."""
    total = num_steps(leg.config)
    most = countable_steps(leg.config, checkpoint_every)
    if total <= WARMUP_STEPS or window_steps <= most:
        return
    raise SweepError(
        f"leg {leg.name}: the tail window has {window_steps} steps, but at most {most} of its {total} can count for "
        f"timing: not the first {WARMUP_STEPS}, nor those right after a save or an evaluation; "
        f"shorten the window, train longer, or save and evaluate less often"
    )
