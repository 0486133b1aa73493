"""Why a completed trial has losses but no timing, so that no dash in a table is without its reason."""

from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot


def untimed_trials(snapshot: Snapshot) -> list[tuple[TrialSnapshot, str]]:
    """The completed trials without a timing window, each with the reason; one that fell back is shown elsewhere."""
    done = [t for t in snapshot.trials if t.state == "completed" and not t.fell_back and t.steps]
    return [(t, t.summary.why_untimed) for t in done if t.summary.why_untimed]
