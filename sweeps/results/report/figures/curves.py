"""How a quantity of the steps differs from the baseline's along a run: a small plot per leg, all on one scale.

Within a block all legs see the same text in the same order, so their difference has far less noise than either curve.
The line is the mean over blocks, the band reaches from the lowest to the highest block.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.results.report.figures.vega import BAND, FASTER, INK, NARROW, SOFT, Spec, finished, words

MOST_POINTS = 60
_AXIS_SPARE_PX = 12
_EARLY = 0.1  # the part of a run that may leave the frame
Curve = Mapping[int, float]  # step -> value


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The mean over blocks around one step, and the lowest and highest block."""

    leg: str
    step: float
    mean: float
    low: float
    high: float
    num_blocks: int


def points_of(leg: str, curves: Sequence[Curve]) -> list[CurvePoint]:
    """The curves of a leg's blocks, thinned to `MOST_POINTS` means of neighbouring steps."""
    last = max((step for curve in curves for step in curve), default=-1)
    size = max(1, -(-(last + 1) // MOST_POINTS))
    binned = [_binned(curve, size) for curve in curves]
    points: list[CurvePoint] = []
    for start in sorted({start for bins in binned for start in bins}):
        means = [statistics.fmean(bins[start]) for bins in binned if start in bins]
        middle, mean = start + (size - 1) / 2, statistics.fmean(means)
        points.append(
            CurvePoint(leg=leg, step=middle, mean=mean, low=min(means), high=max(means), num_blocks=len(means))
        )
    return points


def _binned(curve: Curve, size: int) -> dict[int, list[float]]:
    """First step of each group of `size` steps -> its finite values. A damaged row can name any step: none is tried."""
    bins: dict[int, list[float]] = {}
    for step, value in curve.items():
        if math.isfinite(value):
            bins.setdefault(step - step % size, []).append(value)
    return bins


def curve_gap(curve: Curve, base: Curve, *, in_percent: bool) -> dict[int, float]:
    """`curve` less `base` at the steps that both have, or its change from it in percent."""
    both = [step for step in curve if step in base]
    if not in_percent:
        return {step: curve[step] - base[step] for step in both}
    return {step: (curve[step] / base[step] - 1) * 100 for step in both if base[step] > 0}


def curve_spec(
    points: Sequence[CurvePoint], *, width: int, y_title: str, around_zero: bool, nothing: str = "No steps yet."
) -> Spec:
    """The small plots, three in a row on a wide page and one on a narrow one."""
    if not points:
        return words(nothing, width)
    legs = list(dict.fromkeys(point.leg for point in points))
    columns = 1 if width <= NARROW else min(3, len(legs))
    low, high = _frame(points, around_zero=around_zero)
    rows = [
        {
            "leg": point.leg,
            "step": point.step,
            "mean": _within(point.mean, low, high),
            "low": _within(point.low, low, high),
            "high": _within(point.high, low, high),
        }
        for point in points
    ]
    x = {
        "field": "step",
        "type": "quantitative",
        "axis": {"title": "step", "grid": False, "tickCount": 4, "labelFlush": True},
    }
    scale = {"domain": [low, high], "nice": False, "zero": False}
    y = {"field": "mean", "type": "quantitative", "scale": scale, "axis": {"title": None, "tickCount": 5}}
    at_zero = {"type": "quantitative", "scale": scale, "datum": 0.0}
    zero: list[Spec] = [{"mark": {"type": "rule", "color": SOFT}, "encoding": {"y": at_zero}}] if around_zero else []
    layers = [
        *zero,
        {
            "mark": {"type": "area", "color": BAND, "opacity": 0.25},
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
        },
        {
            "mark": {"type": "line", "color": FASTER, "strokeWidth": 2, "point": len(points) == 1},
            "encoding": {"x": x, "y": y},
        },
    ]
    plot = (width - 60 - 66 * (columns - 1)) // columns
    header = {"title": None, "labelAnchor": "start", "labelFontWeight": "bold", "labelLimit": plot + 30}
    return finished(
        left=_AXIS_SPARE_PX,
        spec={
            "title": {"text": y_title, "fontSize": 13, "fontWeight": "normal", "color": INK, "offset": 12},
            "data": {"values": rows},
            "facet": {"field": "leg", "type": "nominal", "sort": legs, "header": header},
            "columns": columns,
            "spacing": {"row": 26, "column": 22},
            "spec": {"width": plot, "height": 150, "layer": layers},
        },
    )


def _frame(points: Sequence[CurvePoint], *, around_zero: bool) -> tuple[float, float]:
    """The range of the values after the first tenth of the run, a little wider; with zero in it if asked."""
    last = max(point.step for point in points)
    late = [point for point in points if point.step >= last * _EARLY] or list(points)
    low, high = min(point.low for point in late), max(point.high for point in late)
    if around_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - pad, high + pad


def _within(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))
