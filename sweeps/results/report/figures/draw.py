"""The figures of an experiment: which numbers each shows, drawn for a wide and for a narrow page."""

import math
from collections.abc import Callable
from typing import Literal

from sweeps.results.decisions.judgement import SPEED, Judgement, LegVerdict, judge
from sweeps.results.measures.compare import compare, geometric_mean
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.report.blocks import Figure, Words
from sweeps.results.report.figures.bars import Bar, bar_chart
from sweeps.results.report.figures.effects import Bound, Effect, Panel, effect_chart
from sweeps.results.report.figures.lines import Line, Point, line_chart
from sweeps.results.report.figures.strip import StripCell, StripRow, strip_chart
from sweeps.results.report.figures.svg import NARROW, WIDE, Drawing
from sweeps.results.status import shown_state
from sweeps.spec.legs import Leg
from sweeps.spec.metrics import LEADING, Metric
from sweeps.spec.words import grouped, percent_change

EQUIVALENT_WITHIN = 0.01
_EARLY = 0.1  # the part of a run in which the loss falls so fast that it would flatten the rest


def effect_figure(snapshot: Snapshot, *, number: int | None = None, of: str = "") -> Figure:
    """Each leg against the baseline in speed, memory and loss; numbered and named among several experiments."""
    judgement = judge(snapshot)
    panels = [
        Panel(
            heading=metric.label,
            better="higher" if metric.better == "higher" else "lower",
            effects=[_effect(snapshot, leg, metric, judgement) for leg in snapshot.plan.legs],
            bounds=_bounds(snapshot, metric.name),
            margin=EQUIVALENT_WITHIN if metric.name == "tok_per_sec" else None,
        )
        for metric in LEADING
    ]
    spread = (
        "One block: no spread to show."
        if snapshot.plan.num_blocks == 1
        else f"Marks are means over the blocks in which both legs are compared, {snapshot.plan.num_blocks} at most; "
        "ticks are the blocks. Bars of tok/s are intervals that hold together with 99 %, once three blocks are "
        "complete; other bars reach from the lowest to the highest block."
    )
    n = snapshot.plan.window_steps
    return _figure(
        "effect" if number is None else f"effect-{number}",
        "Each leg against the baseline" + (f": {of}" if of else ""),
        lambda width, title, about: effect_chart(panels, width=width, title=title, description=about),
        f"Change of tok/s (last {n} counted steps), of the peak memory of the fullest rank and of the raw mean loss "
        f"(last {n} steps), in percent of the baseline's in the same block. {spread}",
    )


def dt_figure(snapshot: Snapshot) -> Figure:
    """Wall time per step of every trial."""
    lines = _lines(snapshot, "dt_ms")
    return _figure(
        "dt",
        "Time per step",
        lambda width, title, about: line_chart(
            lines, width=width, title=title, description=about, y_label="ms per step on the slowest rank", log_y=True
        ),
        "Wall time of each optimizer step. Shaded and faint: steps that do not count for timing, because of warm-up, a "
        "recompilation, a checkpoint, an evaluation, or a slow-down of a GPU that began or ended.",
    )


def loss_figure(snapshot: Snapshot) -> Figure:
    """Averaged loss per step of every trial."""
    lines = _lines(snapshot, "loss_ema")
    return _figure(
        "loss",
        "Loss per step",
        lambda width, title, about: line_chart(
            lines, width=width, title=title, description=about, y_label="loss in nats per token, debiased average"
        ),
        "Debiased exponential average (0.9) of the training loss at each optimizer step. The first tenth of a run may "
        "lie above the frame.",
    )


def memory_figure(snapshot: Snapshot) -> Figure:
    """Peak memory of every leg."""
    bars = [_memory_bar(snapshot, leg) for leg in snapshot.plan.legs]
    base = max(_values(snapshot, snapshot.plan.baseline, "peak_mib"), default=None)
    bounds = [
        Bound(ratio=ratio * base, label=f"{ratio:g} x the baseline, {grouped(ratio * base, 0)} MiB")
        for _, ratio in _baseline_gates(snapshot, "peak_mib")
        if base is not None
    ]
    return _figure(
        "memory",
        "Peak memory",
        lambda width, title, about: bar_chart(
            bars, width=width, unit="MiB", title=title, description=about, bounds=bounds
        ),
        "Peak memory of the fullest rank in MiB, the highest of all blocks; the percentage is the change from the "
        "baseline.",
    )


def block_figure(snapshot: Snapshot) -> Figure:
    """State and speed of every trial, by leg and block."""
    places = {(t.trial.leg.name, t.trial.block): place for t, place in _places(snapshot)}
    speeds = {leg.name: _ratios(snapshot, leg, "tok_per_sec") for leg in snapshot.plan.legs}
    rows = [
        StripRow(
            label=leg.name,
            cells=[
                None
                if (trial := _trial_of(snapshot, leg, block)) is None
                else StripCell(
                    state=shown_state(trial),
                    ratio=speeds[leg.name].get(block),
                    place=places[leg.name, block],
                    is_baseline=leg.role == "baseline",
                )
                for block in range(1, snapshot.plan.num_blocks + 1)
            ],
        )
        for leg in snapshot.plan.legs
    ]
    return _figure(
        "blocks",
        "Blocks by legs",
        lambda width, title, about: strip_chart(rows, width=width, title=title, description=about),
        "How each trial ended, and its change of tok/s from the baseline of the same block. Blue is faster, "
        "orange slower. #n is its place in the order in which the block's trials start.",
    )


def _figure(key: str, title: str, draw: Callable[[int, str, str], Drawing], caption: str) -> Figure:
    words: Words = (caption,)
    return Figure(
        key=key, title=title, wide=draw(WIDE, title, caption), narrow=draw(NARROW, title, caption), caption=words
    )


def _effect(snapshot: Snapshot, leg: Leg, metric: Metric, judgement: Judgement) -> Effect:
    ratios = list(_ratios(snapshot, leg, metric.name).values())
    is_baseline = leg.role == "baseline"
    own = geometric_mean(_values(snapshot, leg, metric.name)) if is_baseline else None
    return Effect(
        label=leg.name,
        role=leg.role,
        mean=geometric_mean(ratios),
        blocks=[] if is_baseline else ratios,
        interval=None if is_baseline or metric.name != SPEED else _interval(judgement.of_leg(leg.name)),
        absolute=None if own is None else grouped(own, metric.digits),
    )


def _interval(verdict: LegVerdict) -> tuple[float, float] | None:
    low, high = verdict.finding.low, verdict.finding.high
    return None if low is None or high is None else (low, high)


def _ratios(snapshot: Snapshot, leg: Leg, metric: str) -> dict[int, float]:
    return compare(snapshot, leg.name, snapshot.plan.baseline.name, metric).by_block


def _values(snapshot: Snapshot, leg: Leg, metric: str) -> list[float]:
    """A leg's positive values, by block."""
    values = [trial.measures[metric] for trial in snapshot.of_leg(leg.name)]
    return [value for value in values if value is not None and 0 < value < math.inf]


def _baseline_gates(snapshot: Snapshot, metric: str) -> list[tuple[str, float]]:
    """The gates on a metric with their own bound against the baseline: in words, and as a ratio."""
    baseline = snapshot.plan.baseline.name
    gates = [g for g in snapshot.plan.gates if g.metric == metric and g.reference in ("baseline", baseline)]
    most = [(f"at most x {gate.at_most:g}", gate.at_most) for gate in gates if gate.at_most is not None]
    return most + [(f"at least x {gate.at_least:g}", gate.at_least) for gate in gates if gate.at_least is not None]


def _bounds(snapshot: Snapshot, metric: str) -> list[Bound]:
    return [Bound(ratio=ratio, label=f"{metric} {words}") for words, ratio in _baseline_gates(snapshot, metric)]


def _lines(snapshot: Snapshot, field: Literal["dt_ms", "loss_ema"]) -> list[Line]:
    looks = {leg.name: i for i, leg in enumerate(snapshot.plan.legs)}
    lines: list[Line] = []
    for trial in sorted(snapshot.trials, key=lambda t: (looks[t.trial.leg.name], t.trial.block)):
        steps = trial.steps
        if field == "dt_ms":
            shown = zip(steps.ints("step"), steps.floats("dt_ms"), trial.counted, strict=True)
            points = [Point(x=step, y=ms, faint=not counts) for step, ms, counts in shown]
        else:
            early = (steps.known("num_steps")[-1] or 0) * _EARLY if steps else 0.0
            shown = zip(steps.ints("step"), steps.floats("loss_ema"), strict=True)
            points = [Point(x=step, y=loss, may_leave=step < early) for step, loss in shown]
        lines.append(Line(label=trial.trial.leg.name, look=looks[trial.trial.leg.name], points=points))
    return lines


def _memory_bar(snapshot: Snapshot, leg: Leg) -> Bar:
    values = _values(snapshot, leg, "peak_mib")
    ratio = None if leg.role == "baseline" else geometric_mean(_ratios(snapshot, leg, "peak_mib").values())
    change = "" if ratio is None else percent_change(ratio)
    return Bar(
        label=leg.name, role=leg.role, values=values, text=grouped(max(values), 0) if values else "-", change=change
    )


def _trial_of(snapshot: Snapshot, leg: Leg, block: int) -> TrialSnapshot | None:
    return next((t for t in snapshot.of_leg(leg.name) if t.trial.block == block), None)


def _places(snapshot: Snapshot) -> list[tuple[TrialSnapshot, int]]:
    """Each trial with its place, from 1, among those of its block in the order of the plan."""
    seen: dict[int, int] = {}
    places: list[tuple[TrialSnapshot, int]] = []
    for trial in snapshot.trials:
        block = trial.trial.block
        seen[block] = seen.get(block, 0) + 1
        places.append((trial, seen[block]))
    return places
