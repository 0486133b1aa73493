"""Which steps ran on GPUs that heat or the hardware held back: what may explain a slow leg, or a jump in its times."""

from collections.abc import Sequence

from nanochat.throttle import reason_names, slowdown
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.trial import counted
from sweeps.results.report.blocks import Code, Paragraph, Section, Words
from sweeps.results.report.sections import listed


def throttling_sections(snapshots: Sequence[Snapshot]) -> list[Section]:
    """A section if any step was slowed down; nothing if none was or nothing is known."""
    lines = listed(snapshots, throttling_lines)
    if not lines.lines:
        return []
    note = (
        "Such steps count for timing, except where the slow-down begins, changes or ends: a card that is too hot all "
        "the time is measured as it is. A power cap by software is normal under full load and not told here."
    )
    return [
        Section(
            key="throttling", title="GPUs that were slowed down", blocks=[lines, Paragraph(words=(note,), tone="note")]
        )
    ]


def throttling_lines(snapshot: Snapshot) -> list[Words]:
    """One line for each trial with such steps."""
    return [line for trial in snapshot.trials if (line := _line(trial)) is not None]


def _line(trial: TrialSnapshot) -> Words | None:
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
    heat = max((row.gpu_temperature_c for row, _ in slowed if row.gpu_temperature_c is not None), default=None)
    clock = min((row.gpu_clock_mhz for row, _ in slowed if row.gpu_clock_mhz is not None), default=None)
    seen = [f"down to {clock:.0f} MHz"] if clock is not None else []
    seen += [f"at up to {heat:.0f} C"] if heat is not None else []
    return (
        Code(trial.run),
        f": {len(slowed)} of {len(trial.rows)} steps, {sum(counts for _, counts in slowed)} of them counted, "
        + ", ".join([*seen, "because of " + " and ".join(reason_names(bits))]),
    )
