"""The figures of an experiment: which numbers each shows, as specifications for a wide and for a narrow page."""

import math
from collections.abc import Callable

from sweeps.results.decisions.judged import judged
from sweeps.results.decisions.judgement import SPEED, Judgement, LegVerdict
from sweeps.results.decisions.phrase import interval_of
from sweeps.results.measures.compare import compare_legs, geometric_mean
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.report.blocks import Figure, Words
from sweeps.results.report.figures.choice import MOST_ROWS, labels_of, leading_legs, left_out, naming
from sweeps.results.report.figures.curves import Curve, CurvePoint, curve_gap, curve_spec, points_of
from sweeps.results.report.figures.effects import Effect, Panel, effect_spec
from sweeps.results.report.figures.memory import Bar, memory_spec
from sweeps.results.report.figures.strip import StripCell, strip_spec
from sweeps.results.report.figures.vega import NARROW, WIDE, Drawing, Spec
from sweeps.results.status import shown_state
from sweeps.spec.legs import Leg
from sweeps.spec.metrics import LEADING, Metric
from sweeps.spec.words import grouped, percent_change

EQUIVALENT_WITHIN_PCT = 1.0
_MOST_CURVES, _CURVE_CHARS = 6, 21


def effect_figure(snapshot: Snapshot, *, number: int | None = None, of: str = "") -> Figure:
    """Each leg against the baseline in speed, memory and loss; numbered and named among several experiments."""
    judgement = judged(snapshot)
    legs = leading_legs(snapshot, judgement, MOST_ROWS)
    panels = [_panel(snapshot, judgement, legs, metric) for metric in LEADING]
    several = snapshot.plan.num_blocks > 1
    spread = (
        " Ticks are blocks, n is their number. The bar of tok/s is the interval that holds with 99 % for all legs "
        "together, from three complete blocks on, or with 95 % for a leg that counts as equal; other bars reach from "
        "the lowest to the highest block."
        if several
        else " One block: no spread to show."
    )
    caption = (
        "Change from the baseline in the same block: mean over blocks. Grey: within "
        f"\N{PLUS-MINUS SIGN}{EQUIVALENT_WITHIN_PCT:g} %, which counts as equal. Dashed: a gate's bound. A leg "
        f"outside of the scale stands at its edge.{spread} Diamond: baseline; circle: candidate; triangle: other leg "
        f"of the grid; square: control.{naming(legs)}{left_out(snapshot, legs)}"
    )
    return _figure(
        "effect" if number is None else f"effect-{number}",
        "Each leg against the baseline" + (f": {of}" if of else ""),
        lambda width: effect_spec(panels, width),
        caption,
    )


def loss_figure(snapshot: Snapshot) -> Figure:
    """The loss of the leading legs less the baseline's, along the run."""
    points, is_difference = _points(snapshot, _loss_curve, in_percent=False)
    what = "loss less the baseline's, nats per token" if is_difference else "loss, nats per token"
    return _figure(
        "loss",
        "Loss along the run",
        lambda width: curve_spec(points, width=width, y_title=what, around_zero=is_difference),
        "Below zero is better. Each point is a mean over neighbouring steps; legs of a block see the same text. "
        + _band(snapshot),
    )


def dt_figure(snapshot: Snapshot) -> Figure:
    """The time per step of the leading legs as a change from the baseline's, along the run."""
    points, is_difference = _points(snapshot, _dt_curve, in_percent=True)
    what = "change of the time per step, %" if is_difference else "time per step in ms"
    return _figure(
        "dt",
        "Time per step along the run",
        lambda width: curve_spec(
            points, width=width, y_title=what, around_zero=is_difference, nothing="No step counts for timing yet."
        ),
        "Below zero is faster. Only steps that count for timing, on the slowest rank; each point is a mean over "
        "neighbouring steps. " + _band(snapshot),
    )


def memory_figure(snapshot: Snapshot) -> Figure:
    """Peak memory of the leading legs."""
    legs = leading_legs(snapshot, judged(snapshot), MOST_ROWS)
    labels = labels_of(legs)
    bars = [_memory_bar(snapshot, leg, labels[leg.name]) for leg in legs]
    base = max(_values(snapshot, snapshot.plan.baseline, "peak_mib"), default=None)
    bounds = [] if base is None else [ratio * base for _, ratio in _baseline_gates(snapshot, "peak_mib")]
    dashed = " Dashed: the gate's bound." if bounds else ""
    return _figure(
        "memory",
        "Peak memory",
        lambda width: memory_spec(bars, width, bounds),
        f"Of the fullest rank, the highest of all blocks.{dashed}{left_out(snapshot, legs)}",
    )


def block_figure(snapshot: Snapshot) -> Figure:
    """State and speed of every trial of the leading legs, by block."""
    legs = leading_legs(snapshot, judged(snapshot), MOST_ROWS)
    labels = labels_of(legs)
    cells: list[StripCell] = []
    for leg in legs:
        ratios = _ratios(snapshot, leg, SPEED)
        cells += [_cell(trial, labels[leg.name], ratios) for trial in snapshot.of_leg(leg.name)]
    return _figure(
        "blocks",
        "Legs by blocks",
        lambda width: strip_spec(cells, width),
        "The change of tok/s from the baseline of the same block, in percent; without one the trial's state: a check "
        "mark for completed, a circle for not begun, a cross for failed or diverged. Blue is faster, orange slower."
        + left_out(snapshot, legs),
    )


def _figure(key: str, title: str, spec_of: Callable[[int], Spec], caption: str) -> Figure:
    words: Words = (caption,)
    wide, narrow = (Drawing(spec=spec_of(width), title=title, description=caption) for width in (WIDE, NARROW))
    return Figure(key=key, title=title, wide=wide, narrow=narrow, caption=words)


def _panel(snapshot: Snapshot, judgement: Judgement, legs: list[Leg], metric: Metric) -> Panel:
    labels = labels_of(legs)
    n = snapshot.plan.window_steps
    notes = {
        "tok_per_sec": f"more is better; last {n} counted steps",
        "peak_mib": "less is better; fullest rank",
        "loss": f"less is better; raw mean of the last {n} steps",
    }
    gates = _baseline_gates(snapshot, metric.name)
    return Panel(
        heading=metric.label,
        note=notes[metric.name] + "".join(f"; gate: {words}" for words, _ in gates),
        effects=[_effect(snapshot, leg, metric, judgement, labels[leg.name]) for leg in legs],
        bounds=[((ratio - 1) * 100, words) for words, ratio in gates],
        margin=EQUIVALENT_WITHIN_PCT if metric.name == SPEED else None,
    )


def _effect(snapshot: Snapshot, leg: Leg, metric: Metric, judgement: Judgement, label: str) -> Effect:
    if leg.role == "baseline":
        own = geometric_mean(_values(snapshot, leg, metric.name))
        text = "-" if own is None else f"baseline: {grouped(own, metric.digits)}"
        return Effect(label=label, role=leg.role, change=None if own is None else 0.0, text=text, short=text)
    ratios = list(_ratios(snapshot, leg, metric.name).values())
    mean = geometric_mean(ratios)
    limits = _interval(judgement.of_leg(leg.name)) if metric.name == SPEED else None
    low, high = limits or ((min(ratios), max(ratios)) if len(ratios) > 1 and metric.name != SPEED else (None, None))
    shown = interval_of(mean, *(limits or (None, None)))
    n = f" (n = {len(ratios)})" if snapshot.plan.num_blocks > 1 and ratios else ""
    return Effect(
        label=label,
        role=leg.role,
        change=_percent(mean),
        low=_percent(low),
        high=_percent(high),
        blocks=[(ratio - 1) * 100 for ratio in ratios] if len(ratios) > 1 else [],
        text=shown + n,
        short=interval_of(mean, None, None) + n,
    )


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None or not math.isfinite(ratio) else (ratio - 1) * 100


def _interval(verdict: LegVerdict) -> tuple[float, float] | None:
    low, high = verdict.finding.low, verdict.finding.high
    return None if low is None or high is None else (low, high)


def _ratios(snapshot: Snapshot, leg: Leg, metric: str) -> dict[int, float]:
    return compare_legs(snapshot, leg.name, snapshot.plan.baseline.name, metric).by_block


def _values(snapshot: Snapshot, leg: Leg, metric: str) -> list[float]:
    """A leg's positive values, by block."""
    values = [trial.measures[metric] for trial in snapshot.of_leg(leg.name)]
    return [value for value in values if value is not None and 0 < value < math.inf]


def _baseline_gates(snapshot: Snapshot, metric: str) -> list[tuple[str, float]]:
    """The gates on a metric with their own bound against the baseline: in words, and as a ratio."""
    baseline = snapshot.plan.baseline.name
    gates = [g for g in snapshot.plan.gates if g.metric == metric and g.reference in ("baseline", baseline)]
    most = [(f"at most {percent_change(gate.at_most)}", gate.at_most) for gate in gates if gate.at_most is not None]
    least = [(f"at least {percent_change(g.at_least)}", g.at_least) for g in gates if g.at_least is not None]
    return most + least


CurveOf = Callable[[TrialSnapshot], Curve]


def _points(snapshot: Snapshot, curve_of: CurveOf, *, in_percent: bool) -> tuple[list[CurvePoint], bool]:
    """The curves of the leading legs against the baseline's, and True; or as they are while nothing can be compared."""
    legs = leading_legs(snapshot, judged(snapshot), _MOST_CURVES + 1)
    labels = labels_of(legs, _CURVE_CHARS)
    baseline = {t.trial.block: curve_of(t) for t in snapshot.of_leg(snapshot.plan.baseline.name)}
    found: list[CurvePoint] = []
    for leg in legs:
        if leg.role != "baseline":
            pairs = [(curve_of(t), baseline.get(t.trial.block)) for t in snapshot.of_leg(leg.name) if t.steps]
            curves = [curve_gap(curve, base, in_percent=in_percent) for curve, base in pairs if curve and base]
            found += points_of(labels[leg.name], curves)
    if found:
        return found, True
    shown = [(leg, [curve_of(t) for t in snapshot.of_leg(leg.name) if t.steps]) for leg in legs]
    return [point for leg, curves in shown for point in points_of(labels[leg.name], curves)], False


def _loss_curve(trial: TrialSnapshot) -> dict[int, float]:
    return dict(zip(trial.steps.ints("step"), trial.steps.floats("loss"), strict=True))


def _dt_curve(trial: TrialSnapshot) -> dict[int, float]:
    steps = zip(trial.steps.ints("step"), trial.steps.floats("dt_ms"), trial.counted, strict=True)
    return {step: ms for step, ms, counts in steps if counts and math.isfinite(ms)}


def _band(snapshot: Snapshot) -> str:
    legs = leading_legs(snapshot, judged(snapshot), _MOST_CURVES + 1)
    several = "The line is the mean over blocks, the band reaches from the lowest to the highest block. "
    frame = "What the first tenth of a run has outside of the frame is drawn at its edge."
    return (several if snapshot.plan.num_blocks > 1 else "") + frame + left_out(snapshot, legs)


def _memory_bar(snapshot: Snapshot, leg: Leg, label: str) -> Bar:
    mib = max(_values(snapshot, leg, "peak_mib"), default=None)
    return Bar(label=label, role=leg.role, mib=mib, text="-" if mib is None else f"{grouped(mib, 0)} MiB")


def _cell(trial: TrialSnapshot, label: str, ratios: dict[int, float]) -> StripCell:
    return StripCell(
        leg=label,
        block=trial.trial.block,
        state=shown_state(trial),
        ratio=ratios.get(trial.trial.block),
        is_baseline=trial.trial.leg.role == "baseline",
    )
