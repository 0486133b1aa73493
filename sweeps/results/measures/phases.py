"""Where the time of a leg's steps goes: the phases of a step, as medians over the steps whose time counts.

The numbers are the median rank's, not those of one rank: they explain a step's time to a few percent. What is
left of it is the reading of the results. Saves fall into no counted step, so they are summed up over the whole trial.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.records.steps import Steps
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot

SHOWN_PHASES = ("data", "forward", "backward", "optimizer", "communication")


@dataclass(frozen=True, kw_only=True)
class LegPhases:
    """The phases of one leg's steps, all blocks together. None: not measured."""

    leg: str
    dt_ms: float | None
    of_phase_ms: dict[str, float | None]  # of SHOWN_PHASES, in that order
    checkpoint_stall_s: float | None  # of a whole trial, the median one


def leg_phases(snapshot: Snapshot, leg: str) -> LegPhases | None:
    """The phases of a leg; None before its first step."""
    trials = [t for t in snapshot.of_leg(leg) if t.steps]
    if not trials:
        return None
    windows = [t.window for t in trials]
    return LegPhases(
        leg=leg,
        dt_ms=_median(windows, "dt_median_ms"),
        of_phase_ms={phase: _median(windows, f"{phase}_median_ms") for phase in SHOWN_PHASES},
        checkpoint_stall_s=_checkpoint_stall_s(trials),
    )


def knows_phases(snapshot: Snapshot) -> bool:
    """Whether any step reports its phases."""
    return any(ms is not None for t in snapshot.trials for ms in t.steps.known("forward_median_ms"))


def _median(windows: Sequence[Steps], name: str) -> float | None:
    values = [value for window in windows for value in window.known(name) if value is not None]
    return statistics.median(values) if values else None


def _checkpoint_stall_s(trials: Sequence[TrialSnapshot]) -> float | None:
    told = [[ms for ms in t.steps.known("checkpoint_ms") if ms is not None] for t in trials]
    sums_s = [sum(of_trial) / 1e3 for of_trial in told if of_trial]
    return statistics.median(sums_s) if sums_s else None
