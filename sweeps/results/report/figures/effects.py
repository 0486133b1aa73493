"""What each leg changes against the baseline, in percent: one row per leg, one panel per metric.

The main figure. A mark is the geometric mean over the blocks, a bar reaches from the lowest to the highest block,
small ticks are the blocks. A bar is no confidence interval, and the figure says so. Numbers stand in a column of their
own, so no label ever lies on a mark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sweeps.results.report.figures.scales import Scale, inner_ticks, tick_text
from sweeps.results.report.figures.svg import MONO_PX, NARROW, ROLE_MARKS, Canvas, Drawing
from sweeps.spec.words import percent_change

_NUMBER_PX = 66


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One leg's ratios to the baseline, by block; `absolute` is the baseline's own value, shown instead of a change."""

    label: str
    role: str
    mean: float | None
    blocks: Sequence[float] = ()
    interval: tuple[float, float] | None = None  # of the ratio
    absolute: str | None = None


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A ratio that a gate compares with."""

    ratio: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One metric: its effects in the same order of legs everywhere."""

    heading: str
    better: Literal["higher", "lower"]
    effects: Sequence[Effect]
    bounds: Sequence[Bound] = ()
    margin: float | None = None  # changes up to this ratio either way are called equivalent


def effect_chart(panels: Sequence[Panel], *, width: int, title: str, description: str) -> Drawing:
    """Panels next to each other on a wide page, below each other on a narrow one."""
    canvas = Canvas()
    if width <= NARROW:
        y = 0.0
        for panel in panels:
            y = _narrow_panel(canvas, panel, y, width) + 18
    else:
        y = _wide_panels(canvas, panels, width)
    y = _legend(canvas, panels, y + 6, width)
    return canvas.finish(width, y, title, description)


def _wide_panels(canvas: Canvas, panels: Sequence[Panel], width: int) -> float:
    names_px, gap, top = 244, 18, 46
    row_px = 34 if any(len(e.label) * MONO_PX > names_px - 12 for e in panels[0].effects) else 30
    each = (width - names_px - gap * (len(panels) - 1)) / len(panels)
    effects = panels[0].effects
    for i, effect in enumerate(effects):
        y = top + i * row_px
        if i:
            canvas.line(0, y, width, y, "grid")
        two_lines = len(effect.label) * MONO_PX > names_px - 12
        canvas.name(0, y + row_px / 2 + (10 if two_lines else 4), effect.label, names_px - 12)
    bottom = top + len(effects) * row_px
    for i, panel in enumerate(panels):
        x = names_px + i * (each + gap)
        _heading(canvas, panel, x, 14)
        scale = _scale(panel, x + 6, x + each - _NUMBER_PX)
        _ticks(canvas, scale, top, bottom)
        _ground(canvas, panel, scale, top, bottom)
        for k, effect in enumerate(panel.effects):
            _row(canvas, effect, scale, top + (k + 0.5) * row_px, x + each)
    return bottom + 24


def _narrow_panel(canvas: Canvas, panel: Panel, top: float, width: int) -> float:
    row_px = 50 if any(len(e.label) * MONO_PX > width for e in panel.effects) else 38
    _heading(canvas, panel, 0, top + 14)
    scale = _scale(panel, 6, width - _NUMBER_PX)
    start = top + 40
    bottom = start + len(panel.effects) * row_px
    _ticks(canvas, scale, bottom, bottom)
    for i, effect in enumerate(panel.effects):
        y = start + i * row_px
        canvas.line(0, y, width, y, "grid")
        _ground(canvas, panel, scale, y + row_px - 19, y + row_px - 1)
        canvas.name(0, y + row_px - 23, effect.label, width)
        _row(canvas, effect, scale, y + row_px - 10, width)
    return bottom + 24


def _heading(canvas: Canvas, panel: Panel, x: float, y: float) -> None:
    arrow = "better \N{RIGHTWARDS ARROW}" if panel.better == "higher" else "\N{LEFTWARDS ARROW} better"
    canvas.text(x, y, panel.heading, "head")
    canvas.text(x, y + 15, f"change in %, {arrow}", "small")


def _scale(panel: Panel, left: float, right: float) -> Scale:
    shown = [r for e in panel.effects if e.mean is not None for r in (e.mean, *e.blocks, *(e.interval or ()))]
    marks = [b.ratio for b in panel.bounds] + ([1 - panel.margin, 1 + panel.margin] if panel.margin else [])
    changes = [(r - 1) * 100 for r in (1.0, *shown, *marks)]
    low, high = min(changes), max(changes)
    pad = max(high - low, 0.5) * 0.08
    return Scale(low - pad, high + pad, left, right)


def _ticks(canvas: Canvas, scale: Scale, top: float, bottom: float) -> None:
    for tick in inner_ticks(scale.low, scale.high, 3):
        if bottom > top:
            canvas.line(scale.px(tick), top, scale.px(tick), bottom, "grid")
        canvas.text(scale.px(tick), bottom + 15, tick_text(tick), "small number", "middle")


def _ground(canvas: Canvas, panel: Panel, scale: Scale, top: float, bottom: float) -> None:
    """No change, the margin around it, and the gates."""
    if panel.margin:
        left, right = scale.px(-100 * panel.margin), scale.px(100 * panel.margin)
        canvas.box(left, top, right - left, bottom - top, "band")
    canvas.line(scale.px(0), top, scale.px(0), bottom, "axis")
    for bound in panel.bounds:
        x = scale.px((bound.ratio - 1) * 100)
        canvas.line(x, top, x, bottom, "bound")


def _row(canvas: Canvas, effect: Effect, scale: Scale, y: float, right: float) -> None:
    if effect.mean is None:
        canvas.text(right, y + 4, "-", "small", "end")
        return
    colour = ROLE_MARKS[effect.role].colour
    at = [scale.px((r - 1) * 100) for r in effect.blocks]
    if len(at) > 1 and effect.absolute is None:
        ends = [scale.px((ratio - 1) * 100) for ratio in effect.interval] if effect.interval else at
        canvas.line(min(ends), y, max(ends), y, f"line s{colour}")
        for x in at:
            canvas.line(x, y - 4, x, y + 4, f"thin s{colour}")
    canvas.mark(scale.px((effect.mean - 1) * 100), y, ROLE_MARKS[effect.role], 4.5)
    canvas.text(right, y + 4, effect.absolute or percent_change(effect.mean), "number", "end")


def _legend(canvas: Canvas, panels: Sequence[Panel], y: float, width: int) -> float:
    """Wrapped entries: the roles that are there, then what bars, bands and dashed lines are."""
    roles = [r for r in ROLE_MARKS if any(e.role == r for e in panels[0].effects)]
    entries: list[tuple[str, str]] = [(role, role) for role in roles]
    if any(len(e.blocks) > 1 for panel in panels for e in panel.effects):
        entries.append(("bar", "tok/s: interval; else lowest to highest block"))
    margins = [p.margin for p in panels if p.margin]
    if margins:
        entries.append(("band", f"within \N{PLUS-MINUS SIGN}{margins[0] * 100:g} %"))
    labels = dict.fromkeys(b.label for p in panels for b in p.bounds)
    entries += [("bound", f"gate: {label}") for label in labels]
    x, y = 8.0, y + 10
    for kind, label in entries:
        needed = 24 + len(label) * 6.0 + 18
        if x > 8 and x + needed > width:
            x, y = 8.0, y + 20
        _sample(canvas, kind, x, y)
        canvas.text(x + 16, y + 4, label, "small")
        x += needed
    return y + 14


def _sample(canvas: Canvas, kind: str, x: float, y: float) -> None:
    if kind in ROLE_MARKS:
        canvas.mark(x, y, ROLE_MARKS[kind], 4.5)
    elif kind == "bar":
        canvas.line(x - 6, y, x + 8, y, "line s0")
        for tick in (x - 6, x + 2, x + 8):
            canvas.line(tick, y - 4, tick, y + 4, "thin s0")
    elif kind == "band":
        canvas.box(x - 4, y - 6, 12, 12, "band")
    else:
        canvas.line(x, y - 7, x, y + 7, "bound")
