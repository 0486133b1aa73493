"""Each leg against the baseline, how to read that, and why a number is missing or only advice."""

from sweeps.results.decisions.time_to_loss import TimeToLoss, time_to_loss
from sweeps.results.measures.compare import (
    Comparison,
    Mean,
    blocks_of,
    compare,
    differing_code,
    mean_over_blocks,
)
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.measures.untimed import untimed_trials
from sweeps.results.report.blocks import Cell, Code, Column, Paragraph, Table, Words, code_cell, number_cell, text_cell
from sweeps.results.report.sections.across import Snapshots
from sweeps.spec.legs import Leg
from sweeps.spec.metrics import LEADING, METRIC


def ratio_table(snapshot: Snapshot) -> Table:
    """One line per leg: its role, in how many blocks it is next to the baseline, and its ratios to it."""
    numbers = ["blocks", *(metric.label for metric in LEADING), "min to baseline's loss", "dropped %"]
    columns = [Column(heading="leg"), Column(heading="role"), *(Column(heading=n, kind="number") for n in numbers)]
    rows = [_row(snapshot, leg) for leg in snapshot.plan.legs]
    return Table(caption="Each leg as a ratio to the baseline", columns=columns, rows=rows)


def _row(snapshot: Snapshot, leg: Leg) -> list[Cell]:
    base = snapshot.plan.baseline.name
    num_blocks = len(blocks_of(snapshot, leg.name, base))
    comparisons = [compare(snapshot, leg.name, base, metric.name) for metric in LEADING]
    return [
        code_cell(leg.name),
        text_cell(leg.role, leg.role),
        number_cell(num_blocks),
        *(ratio_cell(comparison, num_blocks) for comparison in comparisons),
        _minutes_cell(time_to_loss(snapshot, leg.name, base), num_blocks),
        mean_cell(mean_over_blocks(snapshot, leg.name, "dropped_pct"), METRIC["dropped_pct"].digits, num_blocks),
    ]


def _minutes_cell(found: TimeToLoss | None, num_blocks: int) -> Cell:
    minutes = None if found is None else found.minutes
    return mean_cell(Mean(value=minutes, num_blocks=0 if found is None else found.num_blocks), 2, num_blocks)


def ratio_cell(comparison: Comparison, num_blocks: int) -> Cell:
    """The ratio, or why there is none where two trials ran that must not be compared."""
    if not comparison.by_block and comparison.reason is not None:
        return text_cell(f"not compared: {comparison.reason}")
    return mean_cell(comparison.ratio, 4 if comparison.metric.name == "loss" else 3, num_blocks)


def mean_cell(mean: Mean, digits: int, num_blocks: int) -> Cell:
    """A mean, with its number of blocks if that is not the line's."""
    cell = number_cell(mean.value, digits)
    if mean.value is None or mean.num_blocks == num_blocks:
        return cell
    return Cell(words=(*cell.words, f" (n = {mean.num_blocks})"), order=cell.order)


def ratio_note(snapshots: Snapshots) -> Paragraph:
    """How to read the ratios."""
    windows = sorted({s.plan.window_steps for s in snapshots})
    n = " or ".join(map(str, windows))
    note = (
        f"tok/s, peak MiB and loss are the leg's value over the baseline's: tok/s over the last {n} steps "
        f"whose time counts, peak memory of the fullest rank, loss the raw mean of the last {n} steps. "
        "Means are over the blocks in which both legs are completed, n where it is another number. "
        "Minutes are training time, without compilation, until the mean loss of all blocks, smoothed over the window, "
        "is at the baseline's final one with the tolerance of the gate on the loss (0.5 % without one). "
        "A leg that drops assignments does less work per token. Times and memory are compared only if workers, card "
        "and kernels are the same. - stands for what is not there: a leg that is "
        f"not completed or, for tok/s, has no {n} counted steps in one attempt; steps beside "
        "a save that is still being written do not count."
    )
    return Paragraph(words=(note,), tone="note")


def barred_lines(snapshot: Snapshot) -> list[Words]:
    """Which blocks of a leg are not compared with the baseline, in what, and why."""
    base = snapshot.plan.baseline.name
    lines: list[Words] = []
    for leg in snapshot.plan.legs:
        by_reason: dict[tuple[int, str], list[str]] = {}
        for metric in LEADING:
            for block, reason in compare(snapshot, leg.name, base, metric.name).barred.items():
                by_reason.setdefault((block, reason), []).append(metric.label)
        lines += [
            (
                Code(leg.name),
                " and ",
                Code(base),
                f" are not compared in block {block} in {', '.join(labels)}: {reason}",
            )
            for (block, reason), labels in by_reason.items()
        ]
    return lines


def code_lines(snapshot: Snapshot) -> list[Words]:
    """Which legs ran other code or library versions than the baseline: what is said of the two is advice at most."""
    base = snapshot.plan.baseline.name
    legs = [(leg.name, differing_code(snapshot, leg.name, base)) for leg in snapshot.plan.legs if leg.name != base]
    return [
        (Code(leg), " and ", Code(base), f" ran different code, so their comparison is ADVISORY: {', '.join(found)}")
        for leg, found in legs
        if found
    ]


def untimed_lines(snapshot: Snapshot) -> list[Words]:
    """Why a completed trial has losses but no timing, one line for each."""
    return [(Code(t.run), f" has no timing: {why}") for t, why in untimed_trials(snapshot)]
