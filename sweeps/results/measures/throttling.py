"""Which steps ran on GPUs that heat or the hardware held back: what may explain a slow leg, or a jump in its times."""

from dataclasses import dataclass

from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot


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
    slowed = trial.summary.slowed
    if slowed is None:
        return None
    return Throttled(
        trial=trial,
        num_steps=slowed.num_steps,
        num_counted=slowed.num_counted,
        bits=slowed.gpu_throttle_bits,
        lowest_mhz=slowed.lowest_mhz,
        highest_c=slowed.highest_c,
    )
