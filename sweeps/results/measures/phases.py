"""Where the time of a leg's steps goes: the phases of a step, as medians over the steps whose time counts.

The numbers are the median rank's, not those of one rank: they explain a step's time to a few percent. What is
left of it is the reading of the results. Each block has its median, a leg the median of its blocks. Saves fall into no
counted step, so they are summed up over the whole trial.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from nanochat.stats import STEP_PHASES
from sweeps.results.measures.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class LegPhases:
    """The phases of one leg's steps, all blocks together. None: not measured."""

    leg: str
    dt_ms: float | None
    of_phase_ms: dict[str, float | None]  # of STEP_PHASES, in that order
    checkpoint_stall_s: float | None  # of a whole trial, the median one


def leg_phases(snapshot: Snapshot, leg: str) -> LegPhases | None:
    """The phases of a leg; None before its first step."""
    trials = [t.summary for t in snapshot.of_leg(leg) if t.steps]
    if not trials:
        return None
    return LegPhases(
        leg=leg,
        dt_ms=_median(t.phases_ms["dt"] for t in trials),
        of_phase_ms={phase: _median(t.phases_ms[phase] for t in trials) for phase in STEP_PHASES},
        checkpoint_stall_s=_median(t.checkpoint_stall_s for t in trials),
    )


def knows_phases(snapshot: Snapshot) -> bool:
    """Whether any step reports its phases."""
    return any(t.summary.knows_phases for t in snapshot.trials)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
