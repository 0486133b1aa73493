"""Which steps of a plan will be measured, as `plan` and `launch` say it before anything has run."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeps.spec.plan import Plan


def counting_words(plan: "Plan") -> str:
    """Over which steps the legs are measured, and how many can count for timing."""
    from nanochat.sizes import num_steps
    from nanochat.stats import WARMUP_STEPS
    from sweeps.spec.words import counted

    measured = f"measured over the last {counted(plan.window_steps, 'step')}"
    if not has_timing(plan):
        return f"{measured}: losses only, as the first {WARMUP_STEPS} of a start never count for timing"
    total = amount({num_steps(trial.config) for trial in plan.trials})
    return f"{measured}, times over as many that count ({_most(plan)} of {total} can)"


def has_timing(plan: "Plan") -> bool:
    """True if every leg is long enough for a timing window."""
    from nanochat.sizes import num_steps
    from nanochat.stats import WARMUP_STEPS

    return all(num_steps(trial.config) > WARMUP_STEPS for trial in plan.trials)


def say_what_counts(plan: "Plan") -> None:
    """On stderr, before a launch; a warning if no time will be measured."""
    from cli.console import note, warn

    (note if has_timing(plan) else warn)(counting_words(plan))


def amount(values: Collection[int]) -> str:
    """`40`, or `20 to 40`."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _most(plan: "Plan") -> str:
    from sweeps.spec.counting import countable_steps

    most = {countable_steps(trial.config, trial.config.run.checkpoint_every) for trial in plan.trials}
    return f"at most {amount(most)}"
