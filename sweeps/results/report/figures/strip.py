"""Legs by blocks: how each trial ended, and its change of speed from the baseline of the same block."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.results.report.figures.vega import FASTER, INK, NARROW, RULE, SLOWER, TEXT_PX, Spec, finished, spare_px
from sweeps.spec.words import percent_change

_LABEL_PX, _WIDE_CELL_PX = 210, 74
_NARROW_SPARE_PX = 16
_FULL_COLOUR_PCT = 5.0
STATES = {
    "completed": "\N{CHECK MARK}",
    "stopped_early": "\N{BLACK SQUARE}",
    "failed": "\N{BALLOT X}",
    "diverged": "\N{BALLOT X}",
    "dropped": "\N{MULTIPLICATION SIGN}",
    "interrupted": "\N{BLACK DOWN-POINTING TRIANGLE}",
    "running": "\N{BLACK RIGHT-POINTING TRIANGLE}",
    "pending": "\N{WHITE CIRCLE}",
    "damaged": "?",
}


@dataclass(frozen=True, kw_only=True)
class StripCell:
    """One trial."""

    leg: str
    block: int
    state: str
    ratio: float | None = None  # to the baseline of its block
    is_baseline: bool = False


def strip_spec(cells: Sequence[StripCell], width: int) -> Spec:
    """A cell for each trial. A narrow page with many blocks shows signs without numbers."""
    narrow = width <= NARROW
    num_blocks = len({cell.block for cell in cells}) or 1
    label_px = 120 if narrow else _LABEL_PX
    cell_px = min(_WIDE_CELL_PX, (width - label_px - (8 + _NARROW_SPARE_PX if narrow else 8)) / num_blocks)
    rows = [_row(cell, has_room=cell_px >= 52) for cell in cells]
    legs = list(dict.fromkeys(cell.leg for cell in cells))
    limit = label_px - 14 if narrow else 0
    y = {"field": "leg", "type": "nominal", "sort": legs, "title": None, "axis": {"labelLimit": limit}}
    x = {
        "field": "block",
        "type": "ordinal",
        "axis": {"title": "block", "labelAngle": 0, "ticks": False, "domain": False},
    }
    box = {"type": "rect", "stroke": RULE, "strokeWidth": 1}
    layers: list[Spec] = [
        {"mark": {**box, "color": RULE, "fillOpacity": 0.25}, "encoding": {"x": x, "y": y}},
        *(
            {
                "transform": [{"filter": f"datum.sign === {sign}"}],
                "mark": {**box, "color": colour},
                "encoding": {"x": x, "y": y, "opacity": {"field": "strength", "type": "quantitative", "scale": None}},
            }
            for sign, colour in ((1, FASTER), (-1, SLOWER))
        ),
        {
            "mark": {"type": "text", "fontSize": TEXT_PX, "fill": INK},
            "encoding": {"x": x, "y": y, "text": {"field": "text"}},
        },
    ]
    whole: Spec = {"width": {"step": cell_px}, "height": {"step": 24}, "data": {"values": rows}, "layer": layers}
    return finished(whole, left=min(spare_px(legs), _NARROW_SPARE_PX if narrow else math.inf))


def _row(cell: StripCell, *, has_room: bool) -> Spec:
    change = None if cell.ratio is None else (cell.ratio - 1) * 100
    sign = 0 if change is None or cell.is_baseline else 1 if change > 0 else -1 if change < 0 else 0
    text = STATES.get(cell.state, "?")
    if has_room and change is not None and not cell.is_baseline:
        text = percent_change(cell.ratio or 1.0).removesuffix(" %")
    elif has_room and cell.state not in ("completed", "pending"):
        text = cell.state.replace("_", " ")[:9] if len(cell.state) <= 9 else text
    strength = min(1.0, abs(change or 0.0) / _FULL_COLOUR_PCT) * 0.45
    return {"leg": cell.leg, "block": cell.block, "state": cell.state, "text": text, "sign": sign, "strength": strength}
