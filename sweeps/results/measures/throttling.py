"""Which steps ran on GPUs that heat or the hardware held back: what may explain a slow leg, or a jump in its times."""

from dataclasses import dataclass

from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.trial import slowdowns


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
    bits = slowdowns(trial.steps)
    reasons = 0
    for slowed_by in bits:
        reasons |= slowed_by
    if not reasons:
        return None
    slowed = trial.steps.where([slowed != 0 for slowed in bits])
    return Throttled(
        trial=trial,
        num_steps=len(slowed),
        num_counted=sum(counts and slowed != 0 for counts, slowed in zip(trial.counted, bits, strict=True)),
        bits=reasons,
        lowest_mhz=min((mhz for mhz in slowed.known("gpu_clock_mhz") if mhz is not None), default=None),
        highest_c=max((c for c in slowed.known("gpu_temperature_c") if c is not None), default=None),
    )
