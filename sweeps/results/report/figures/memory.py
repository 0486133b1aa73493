"""Peak memory of every leg as bars from zero: length compares amounts only from there on."""

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.results.report.figures.vega import ALONE, INK, NARROW, ROLE_MARKS, TEXT_PX, Spec, finished, spare_px, words

_LABEL_PX, _NUMBER_PX, _ROW_PX, _NARROW_ROW_PX = 210, 150, 23, 40


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One leg's highest block, and the words next to its bar."""

    label: str
    role: str
    mib: float | None
    text: str


def memory_spec(bars: Sequence[Bar], width: int, bounds: Sequence[float] = ()) -> Spec:
    """A bar for each leg; a bound of a gate, in MiB, goes through all of them."""
    if not any(bar.mib is not None for bar in bars):
        return words("Nothing measured yet.", width)
    narrow = width <= NARROW
    plot = width - 12 if narrow else width - _LABEL_PX - _NUMBER_PX
    rows = [{"leg": bar.label, "role": bar.role, "mib": bar.mib, "text": bar.text} for bar in bars]
    axis = None if narrow else {"labelLimit": 0}
    y = {"field": "leg", "type": "nominal", "sort": [bar.label for bar in bars], "title": None, "axis": axis}
    x_axis = {"title": "MiB", "tickCount": 4, "format": ",.0f", "labelFlush": True, "grid": False}
    x = {"type": "quantitative", "scale": {"zero": True}, "axis": x_axis}
    layers: list[Spec] = [
        {
            "transform": [{"filter": f"datum.role === '{role}'"}],
            "mark": {"type": "bar", "color": colour, "size": 12, **({"yOffset": 6} if narrow else {})},
            "encoding": {"x": {**x, "field": "mib"}, "y": y},
        }
        for role, (colour, _) in ROLE_MARKS.items()
    ]
    dashed = {"color": INK, "strokeDash": [4, 3]}
    layers += [
        {"data": ALONE, "mark": {**dashed, "type": "rule"}, "encoding": {"x": {**x, "datum": bound}}}
        for bound in bounds
    ]
    left, right = (0.0, 0.0) if narrow else (spare_px(bar.label for bar in bars), spare_px(bar.text for bar in bars))
    height = {"step": _NARROW_ROW_PX if narrow else _ROW_PX}
    layers += row_texts(plot, y, narrow=narrow)
    whole: Spec = {"width": plot, "height": height, "data": {"values": rows}, "layer": layers}
    return finished(whole, left=left, right=right)


def row_texts(plot: int, y: Spec, *, narrow: bool) -> list[Spec]:
    """The numbers in a column of their own; on a narrow page they and the names are above each row."""
    mark = {"type": "text", "fontSize": TEXT_PX, "fill": INK}
    if not narrow:
        encoding = {"x": {"value": plot + 12}, "y": y, "text": {"field": "text"}}
        return [{"mark": {**mark, "align": "left"}, "encoding": encoding}]
    above = {**mark, "dy": -12}
    name = {"x": {"value": 0}, "y": y, "text": {"field": "leg"}}
    number = {"x": {"value": plot}, "y": y, "text": {"field": "text"}}
    return [
        {"mark": {**above, "align": "left", "limit": plot - 132}, "encoding": name},
        {"mark": {**above, "align": "right"}, "encoding": number},
    ]
