"""Where the time of a leg's steps goes: the phases of a step, as medians over the steps whose time counts.

The numbers are the median rank's, which is no rank in particular: they explain a step's time to a few percent. What is
left of it is the reading of the results. Saves fall into no counted step, so they are summed up over the whole trial.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.trial import timing_window

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
    trials = [t for t in snapshot.of_leg(leg) if t.rows]
    if not trials:
        return None
    window = [row for t in trials for row in timing_window(t.rows, snapshot.plan.window_steps)]
    return LegPhases(
        leg=leg,
        dt_ms=_median(window, "dt_median_ms"),
        of_phase_ms={phase: _median(window, f"{phase}_median_ms") for phase in SHOWN_PHASES},
        checkpoint_stall_s=_checkpoint_stall_s(trials),
    )


def _median(rows: Sequence[StepRow], name: str) -> float | None:
    values = [value for row in rows if (value := getattr(row, name)) is not None]
    return statistics.median(values) if values else None


def _checkpoint_stall_s(trials: Sequence[TrialSnapshot]) -> float | None:
    told = [[row.checkpoint_ms for row in t.rows if row.checkpoint_ms is not None] for t in trials]
    sums_s = [sum(of_trial) / 1e3 for of_trial in told if of_trial]
    return statistics.median(sums_s) if sums_s else None
