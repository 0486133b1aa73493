"""What each leg changes against the baseline, in percent: one row per leg, one panel per metric. The main figure.

The scale is that of the gates: it shows the range of equivalence and the bounds, with the legs that are near them. A
leg far outside stands at the edge, with its number in the column, and does not squeeze the others together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.results.report.figures.memory import row_texts
from sweeps.results.report.figures.vega import (
    ALONE,
    BAND,
    INK,
    NARROW,
    ROLE_MARKS,
    SOFT,
    TEXT_PX,
    Spec,
    finished,
    spare_px,
    words,
)
from sweeps.spec.words import fixed

_PERCENT = "datum.value === 0 ? '0 %' : format(datum.value, '+.3~g') + ' %'"
_LEAST_HALF_PCT = 2.0  # of the scale to either side
_FARTHEST = 4.0  # times the gates' region; a leg past that stands at the edge
_LABEL_PX, _NUMBER_PX, _ROW_PX, _NARROW_ROW_PX = 190, 210, 23, 40


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One leg's change from the baseline in one metric, in percent."""

    label: str
    role: str
    change: float | None  # mean over the blocks
    low: float | None = None  # of its interval, or of the lowest block
    high: float | None = None
    blocks: Sequence[float] = ()
    text: str = "-"
    short: str = "-"  # the same without the interval, for a narrow page


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One metric."""

    heading: str
    note: str
    effects: Sequence[Effect]
    bounds: Sequence[tuple[float, str]] = ()  # of gates, in percent, with their words
    margin: float | None = None  # within which legs count as equal, in percent


def effect_spec(panels: Sequence[Panel], width: int) -> Spec:
    """The panels below each other."""
    if not any(effect.change is not None for panel in panels for effect in panel.effects):
        return words("No two legs can be compared yet.", width)
    narrow = width <= NARROW
    spare = 0.0 if narrow else spare_px(effect.label for panel in panels for effect in panel.effects)
    spare_right = 0.0 if narrow else spare_px(effect.text for panel in panels for effect in panel.effects)
    parts = [_panel(panel, width - round(spare + spare_right)) for panel in panels]
    return finished({"vconcat": parts, "spacing": 26, "bounds": "full"}, left=spare, right=spare_right)


def half_width(panel: Panel) -> float:
    """How far the scale reaches to either side, in percent."""
    bounds = [abs(bound) for bound, _ in panel.bounds]
    region = max([_LEAST_HALF_PCT, 2 * (panel.margin or 0.0), *(1.5 * bound for bound in bounds)])
    near = [
        abs(value)
        for effect in panel.effects
        for value in (effect.change, effect.low, effect.high, *effect.blocks)
        if value is not None and abs(value) <= _FARTHEST * region
    ]
    return max([region, *(1.1 * value for value in near)])


def _panel(panel: Panel, width: int) -> Spec:
    half, narrow = half_width(panel), width <= NARROW
    plot = width - 12 if narrow else width - _LABEL_PX - _NUMBER_PX
    rows = [_row(effect, half, effect.short if narrow else effect.text) for effect in panel.effects]
    order = [effect.label for effect in panel.effects]
    y = {"field": "leg", "type": "nominal", "sort": order, "title": None, "axis": None if narrow else {"labelLimit": 0}}
    scale = {"domain": [-half, half], "nice": False, "zero": False}
    axis = {"title": None, "labelExpr": _PERCENT, "values": _ticks(half), "labelFlush": True}
    x = {"type": "quantitative", "scale": scale, "axis": axis}
    layers = [
        *_region(panel, x),
        {"data": ALONE, "mark": {"type": "rule", "color": SOFT}, "encoding": {"x": {**x, "datum": 0.0}}},
        *_bounds(panel, x),
        {
            "mark": {"type": "rule", "color": INK, "strokeWidth": 2},
            "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y},
        },
        _block_ticks(panel, half, x, y),
        *_marks(x, y),
        {
            "transform": [{"filter": "datum.edge !== null"}],
            "mark": {"type": "text", "fontSize": TEXT_PX, "color": INK, "dy": 3 if narrow else 1},
            "encoding": {
                "x": {**x, "field": "edge"},
                "y": y,
                "text": {"field": "beyond"},
            },
        },
        *row_texts(plot, y, narrow=narrow),
    ]
    return {
        "title": {"text": panel.heading, "subtitle": panel.note.split("; ") if narrow else panel.note, "offset": 8},
        "width": plot,
        "height": {"step": _NARROW_ROW_PX if narrow else _ROW_PX},
        "data": {"values": rows},
        "layer": layers,
    }


def _ticks(half: float) -> list[float]:
    """Zero and one or two round numbers to either side."""
    wanted = half / 2
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(round_ * power for round_ in (1, 2, 5, 10) if round_ * power >= wanted * 0.999)
    return [step * place for place in range(-2, 3) if abs(step * place) <= half]


def _row(effect: Effect, half: float, text: str) -> Spec:
    change = effect.change
    is_inside = change is not None and abs(change) <= half
    low, high = (max(-half, min(half, v)) if v is not None else None for v in (effect.low, effect.high))
    row: Spec = {"leg": effect.label, "role": effect.role, "text": text, "edge": None, "beyond": ""}
    row |= {"change": change if is_inside else None, "low": low, "high": high if low is not None else None}
    if change is not None and not is_inside:
        sign = "<" if change < 0 else ">"
        amount = fixed(half, 0 if half >= 10 else 1)
        minus = "\N{MINUS SIGN}" if change < 0 else "+"
        row |= {"edge": 0.72 * (-half if change < 0 else half), "beyond": f"{sign} {minus}{amount} %"}
        row |= {"low": None, "high": None}
    return row


def _region(panel: Panel, x: Spec) -> list[Spec]:
    if panel.margin is None:
        return []
    encoding = {"x": {**x, "datum": -panel.margin}, "x2": {"datum": panel.margin}}
    return [{"data": ALONE, "mark": {"type": "rect", "color": BAND, "opacity": 0.2}, "encoding": encoding}]


def _bounds(panel: Panel, x: Spec) -> list[Spec]:
    mark = {"type": "rule", "color": INK, "strokeDash": [4, 3]}
    return [{"data": ALONE, "mark": mark, "encoding": {"x": {**x, "datum": bound}}} for bound, _ in panel.bounds]


def _block_ticks(panel: Panel, half: float, x: Spec, y: Spec) -> Spec:
    values = [
        {"leg": effect.label, "change": change}
        for effect in panel.effects
        for change in effect.blocks
        if abs(change) <= half and abs(effect.change or 0.0) <= half
    ]
    mark = {"type": "tick", "color": SOFT, "thickness": 1, "size": 10}
    return {"data": {"values": values}, "mark": mark, "encoding": {"x": {**x, "field": "change"}, "y": y}}


def _marks(x: Spec, y: Spec) -> list[Spec]:
    """One layer per role, because a colour that the page names is no colour that a scale could mix."""
    return [
        {
            "transform": [{"filter": f"datum.role === '{role}' && datum.change !== null"}],
            "mark": {"type": "point", "shape": shape, "filled": True, "color": colour, "size": 90, "opacity": 1},
            "encoding": {"x": {**x, "field": "change"}, "y": y},
        }
        for role, (colour, shape) in ROLE_MARKS.items()
    ]
