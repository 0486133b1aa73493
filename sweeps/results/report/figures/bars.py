"""Horizontal bars from zero, one per leg, each with its number: peak memory.

Length compares amounts only from zero on, so the axis always starts there. The bar is the highest block; where blocks
differ, ticks inside show the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.results.report.figures.effects import Bound
from sweeps.results.report.figures.scales import Scale, linear_ticks, tick_text
from sweeps.results.report.figures.svg import MONO_PX, NARROW, ROLE_MARKS, Canvas, Drawing


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One leg's values by block, and the numbers next to its bar."""

    label: str
    role: str
    values: Sequence[float]
    text: str
    change: str = ""  # from the baseline


def bar_chart(
    bars: Sequence[Bar], *, width: int, unit: str, title: str, description: str, bounds: Sequence[Bound] = ()
) -> Drawing:
    """The bars of all legs; a bound is drawn through all of them, at its value (not at a ratio)."""
    canvas = Canvas()
    narrow = width <= NARROW
    left, number_px = (0, 112) if narrow else (250, 136)
    two_lines = any(len(bar.label) * MONO_PX > (width if narrow else left - 12) for bar in bars)
    row_px = (50 if two_lines else 38) if narrow else (34 if two_lines else 28)
    values = [v for bar in bars for v in bar.values]
    if not values:
        canvas.text(12, 30, "nothing measured yet")
        return canvas.finish(width, 50, title, description)
    ticks = linear_ticks(0, max([*values, *(b.ratio for b in bounds)]), 3 if narrow else 5)
    scale = Scale(0, ticks[-1], left, width - number_px)
    top, bottom = 8, 8 + row_px * len(bars)
    for tick in ticks:
        if not narrow:
            canvas.line(scale.px(tick), top, scale.px(tick), bottom, "axis" if tick == 0 else "grid")
        anchor = "start" if narrow and tick == 0 else "middle"
        canvas.text(scale.px(tick), bottom + 15, tick_text(tick), "small number", anchor)
    canvas.text(width - 62, bottom + 15, unit, "small", "end")
    for i, bar in enumerate(bars):
        end = top + (i + 1) * row_px
        _bar(canvas, bar, scale, end, width, narrow)
        for bound in bounds:
            x = scale.px(bound.ratio)
            canvas.line(x, end - (20 if narrow else row_px), x, end - (2 if narrow else 0), "bound")
    return canvas.finish(width, _legend(canvas, bounds, bottom, left), title, description)


def _bar(canvas: Canvas, bar: Bar, scale: Scale, bottom: float, width: int, narrow: bool) -> None:
    y = bottom - (11 if narrow else 15)
    if narrow:
        canvas.name(0, bottom - 22, bar.label, width)
    else:
        canvas.name(0, y + (8 if len(bar.label) * MONO_PX > scale.start_px - 12 else 4), bar.label, scale.start_px - 12)
    if not bar.values:
        canvas.text(scale.start_px + 4, y + 4, "-", "small")
        return
    mark = ROLE_MARKS[bar.role]
    thickness = 12 if narrow else 14
    end = scale.px(max(bar.values))
    canvas.box(scale.start_px, y - thickness / 2, end - scale.start_px, thickness, f"f{mark.colour}", 2)
    for value in sorted(set(bar.values))[:-1]:
        canvas.line(scale.px(value), y - thickness / 2, scale.px(value), y + thickness / 2, "bound")
    canvas.mark(end, y, mark, 4.5)
    canvas.text(width - 62, y + 4, bar.text, "number", "end")
    canvas.text(width, y + 4, bar.change, "number", "end")


def _legend(canvas: Canvas, bounds: Sequence[Bound], bottom: float, left: float) -> float:
    y = bottom + 24
    for bound in bounds:
        canvas.line(left + 6, y + 2, left + 6, y + 16, "bound")
        canvas.text(left + 16, y + 13, f"gate: {bound.label}", "small")
        y += 20
    return y + 4
