"""Each leg against the baseline, how to read that, and why a leg has no timing."""

from sweeps.results.measures.compare import ratios_to_baseline
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.measures.untimed import untimed_trials
from sweeps.results.report.blocks import Code, Column, Paragraph, Table, Words, code_cell, number_cell, text_cell
from sweeps.results.report.sections.across import Snapshots


def ratio_table(snapshot: Snapshot) -> Table:
    """One line per leg: its role and its ratios to the baseline."""
    numbers = ["tok/s", "peak MiB", "loss", "min to baseline's loss", "dropped %"]
    rows = [
        [
            code_cell(r.leg.name),
            text_cell(r.leg.role, r.leg.role),
            number_cell(r.tok_per_sec, 3),
            number_cell(r.peak_mib, 3),
            number_cell(r.loss, 4),
            number_cell(r.minutes_to_baseline_loss, 2),
            number_cell(r.dropped_pct, 2),
        ]
        for r in ratios_to_baseline(snapshot)
    ]
    columns = [Column(heading="leg"), Column(heading="role"), *(Column(heading=n, kind="number") for n in numbers)]
    return Table(caption="Each leg as a ratio to the baseline", columns=columns, rows=rows)


def ratio_note(snapshots: Snapshots) -> Paragraph:
    """How to read the ratios."""
    windows = sorted({s.plan.window_steps for s in snapshots})
    n = " or ".join(map(str, windows))
    note = (
        f"tok/s, peak MiB and loss are the leg's value over the baseline's: tok/s over the last {n} steps "
        f"whose time counts, peak memory of the fullest rank, loss the raw mean of the last {n} steps. "
        "Minutes count steps > 10 until the averaged loss first is at or below the baseline's last. "
        "A leg that drops assignments does less work per token. - stands for what is not there: a leg that is "
        f"not completed, that went on uncompiled or, for tok/s, has no {n} counted steps in one attempt; steps beside "
        "a save that is still being written do not count."
    )
    return Paragraph(words=(note,), tone="note")


def untimed_lines(snapshot: Snapshot) -> list[Words]:
    """Why a completed trial has losses but no timing, one line for each."""
    return [(Code(t.run), f" has no timing: {why}") for t, why in untimed_trials(snapshot)]
