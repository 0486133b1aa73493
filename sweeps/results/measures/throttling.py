"""Which steps ran on GPUs that heat or the hardware held back: what may explain a slow leg, or a jump in its times."""

from dataclasses import dataclass

from nanochat.throttle import slowdown
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.trial import counted


@dataclass(frozen=True, kw_only=True)
class Throttled:
    """The slowed steps of one trial. None: not known."""

    trial: TrialSnapshot
    num_steps: int
    num_counted: int  # of these, for timing
    bits: int  # all reasons of any of these steps
    lowest_mhz: float | None
    highest_c: float | None


def throttled_trials(snapshot: Snapshot) -> list[Throttled]:
    """The trials with slowed steps, in plan order."""
    return [throttled for trial in snapshot.trials if (throttled := _throttled(trial)) is not None]


def _throttled(trial: TrialSnapshot) -> Throttled | None:
    slowed = [
        (row, counts)
        for row, counts in zip(trial.rows, counted(trial.rows), strict=True)
        if slowdown(row.gpu_throttle_bits)
    ]
    if not slowed:
        return None
    bits = 0
    for row, _ in slowed:
        bits |= slowdown(row.gpu_throttle_bits)
    return Throttled(
        trial=trial,
        num_steps=len(slowed),
        num_counted=sum(counts for _, counts in slowed),
        bits=bits,
        lowest_mhz=min((row.gpu_clock_mhz for row, _ in slowed if row.gpu_clock_mhz is not None), default=None),
        highest_c=max((row.gpu_temperature_c for row, _ in slowed if row.gpu_temperature_c is not None), default=None),
    )
