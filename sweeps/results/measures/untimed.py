"""Why a completed trial has losses but no timing, so that no dash in a table is without its reason."""

from collections.abc import Sequence

from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.trial import counted, timing_window


def untimed_trials(snapshot: Snapshot) -> list[tuple[TrialSnapshot, str]]:
    """The completed trials without a timing window, each with the reason; one that fell back is told elsewhere."""
    window = snapshot.plan.window_steps
    done = [t for t in snapshot.trials if t.state == "completed" and not t.fell_back]
    return [(t, why) for t in done if (why := why_untimed(t.rows, window)) is not None]


def why_untimed(rows: Sequence[StepRow], window_steps: int) -> str | None:
    """What keeps `rows` from having a timing window; None if they have one or there are none."""
    if not rows or timing_window(rows, window_steps):
        return None
    num_counted = sum(counted(rows))
    why = f"{num_counted} of {len(rows)} steps count, the window has {window_steps}"
    if num_counted >= window_steps:
        why = f"the last {window_steps} steps that count are not all of one attempt"
    beside_saves = sum("checkpoint" in row.flags for row in rows)
    return why + (f"; {beside_saves} steps were beside a save" if beside_saves else "")
