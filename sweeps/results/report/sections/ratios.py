"""Each leg against the baseline, how to read that, and why a number is missing or only advice."""

import math
from collections.abc import Sequence

from nanochat.config import get_field
from sweeps.results.decisions.judged import judged
from sweeps.results.decisions.judgement import Judgement, LegVerdict
from sweeps.results.decisions.listing import verdict_text
from sweeps.results.decisions.phrase import interval_of
from sweeps.results.decisions.ranking import ranked_legs
from sweeps.results.decisions.time_to_loss import TimeToLoss, time_to_loss
from sweeps.results.measures.compare import (
    Comparison,
    Mean,
    blocks_of,
    compare_legs,
    differing_code,
    mean_over_blocks,
)
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.measures.untimed import untimed_trials
from sweeps.results.report.blocks import Cell, Code, Column, Paragraph, Table, Words, code_cell, number_cell, text_cell
from sweeps.results.report.figures.choice import labels_of, value_text
from sweeps.results.report.sections.across import Snapshots
from sweeps.spec.legs import Leg
from sweeps.spec.metrics import LEADING, METRIC
from sweeps.spec.words import percent_change

_LONG_NAME = 24  # characters, from which the axes say more than a name


def ratio_table(snapshot: Snapshot) -> Table:
    """One line per leg: its change from the baseline in each leading metric, and the verdict on its speed.

    Many legs are ranked. Where names are long, the values of the axes stand in columns of their own.
    """
    judgement = judged(snapshot)
    legs = ranked_legs(snapshot, judgement)
    axes = axes_of(snapshot) if any(len(leg.name) > _LONG_NAME for leg in legs) else []
    labels = labels_of(legs, _LONG_NAME) if axes else {leg.name: leg.name for leg in legs}
    speed, *others = (metric.label for metric in LEADING)
    texts = ["leg", *(path.rpartition(".")[2] for path in axes), "role"]
    numbers = [*others, "min to baseline's loss", "dropped %", "blocks"]
    columns = [
        *(Column(heading=text) for text in texts),
        Column(heading=speed, kind="number"),
        Column(heading="verdict"),
    ]
    columns += [Column(heading=n, kind="number") for n in numbers]
    rows = [_row(snapshot, judgement, leg, labels[leg.name], axes) for leg in legs]
    return Table(caption="Change of each leg from the baseline", columns=columns, rows=rows)


def axes_of(snapshot: Snapshot) -> list[str]:
    """The config fields that the legs of the grid set."""
    grid = [leg for leg in snapshot.plan.legs if leg.role != "control"]
    return list(dict.fromkeys(path for leg in grid for path in leg.overrides if "." in path))


def _row(snapshot: Snapshot, judgement: Judgement, leg: Leg, label: str, axes: Sequence[str]) -> list[Cell]:
    base = snapshot.plan.baseline.name
    num_blocks = len(blocks_of(snapshot, leg.name, base))
    speed, *others = (compare_legs(snapshot, leg.name, base, metric.name) for metric in LEADING)
    is_baseline = leg.role == "baseline"
    verdict = None if is_baseline else judgement.of_leg(leg.name)
    return [
        code_cell(label),
        *(text_cell(_value(leg, path)) for path in axes),
        text_cell(leg.role, leg.role),
        text_cell("-") if is_baseline else _speed_cell(verdict, speed, num_blocks),
        text_cell("-" if verdict is None else verdict_text(verdict)),
        *(text_cell("-") if is_baseline else change_cell(comparison, num_blocks) for comparison in others),
        _minutes_cell(time_to_loss(snapshot, leg.name, base), num_blocks),
        mean_cell(mean_over_blocks(snapshot, leg.name, "dropped_pct"), METRIC["dropped_pct"].digits, num_blocks),
        number_cell(num_blocks),
    ]


def _value(leg: Leg, path: str) -> str:
    """The value of an axis; of a section that the leg does not have, none."""
    value = get_field(leg.config, path)
    return value_text(value)


def _minutes_cell(found: TimeToLoss | None, num_blocks: int) -> Cell:
    minutes = None if found is None else found.minutes
    return mean_cell(Mean(value=minutes, num_blocks=0 if found is None else found.num_blocks), 2, num_blocks)


def _speed_cell(verdict: LegVerdict | None, comparison: Comparison, num_blocks: int) -> Cell:
    """The change with its interval, as the verdict knows it; before there is one, the plain mean."""
    if verdict is None or verdict.finding.low is None or verdict.finding.ratio is None:
        return change_cell(comparison, num_blocks)
    finding = verdict.finding
    n = "" if finding.num_blocks == num_blocks else f" (n = {finding.num_blocks})"
    return Cell(words=(interval_of(finding.ratio, finding.low, finding.high) + n,), order=finding.ratio)


def change_cell(comparison: Comparison, num_blocks: int) -> Cell:
    """The change in percent, or why there is none where two trials ran that must not be compared."""
    if not comparison.by_block and comparison.reason is not None:
        return text_cell(f"not compared: {comparison.reason}")
    mean = comparison.ratio
    if mean.value is None:
        return text_cell("-")
    n = "" if mean.num_blocks == num_blocks else f" (n = {mean.num_blocks})"
    return Cell(words=(percent_change(mean.value) + n,), order=mean.value if math.isfinite(mean.value) else None)


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
        f"tok/s, peak MiB and loss are changes from the baseline in the same block: tok/s over the last {n} steps "
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
            for block, reason in compare_legs(snapshot, leg.name, base, metric.name).barred.items():
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
