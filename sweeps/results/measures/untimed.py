"""Why a completed trial has losses but no timing, so that no dash in a table is without its reason."""

import math
from collections.abc import Sequence

from sweeps.records.steps import Steps
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec.words import counted


def untimed_trials(snapshot: Snapshot) -> list[tuple[TrialSnapshot, str]]:
    """The completed trials without a timing window, each with the reason; one that fell back is told elsewhere."""
    done = [t for t in snapshot.trials if t.state == "completed" and not t.fell_back and t.steps and not t.window]
    return [(t, why_untimed(t.steps, t.counted, t.window_steps)) for t in done]


def why_untimed(steps: Steps, counts: Sequence[bool], window_steps: int) -> str:
    """What keeps steps, of which some count, from having a timing window."""
    num_counted = sum(counts)
    why = f"{num_counted} of {counted(len(steps), 'step')} count, the window has {window_steps}"
    if num_counted >= window_steps:
        times = [ms for ms, does_count in zip(steps.floats("dt_ms"), counts, strict=True) if does_count][-window_steps:]
        is_measurable = all(0 < ms < math.inf for ms in times)
        why = (
            f"the last {window_steps} steps that count are not all of one attempt"
            if is_measurable
            else f"among the last {window_steps} steps that count is one whose time is not a positive number"
        )
    beside_saves = sum("checkpoint" in flags for flags in steps.flags)
    verb = "was" if beside_saves == 1 else "were"
    return why + (f"; {counted(beside_saves, 'step')} {verb} beside a save" if beside_saves else "")
