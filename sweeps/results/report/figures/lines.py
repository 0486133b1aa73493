"""Curves over the steps of training: one plot while few legs share it, a small plot for each leg when there are many.

Legs differ by colour, dash and shape. What does not count for timing is drawn faintly on a shaded ground. Such a point,
and one that says so, can leave the frame: a first step that compiles for a minute would flatten all that matters. No
other point ever does.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sweeps.results.report.figures.scales import Scale, inner_ticks, linear_ticks, log_ticks, tick_text
from sweeps.results.report.figures.svg import MONO_PX, NARROW, Canvas, Drawing, line_look, mark_of, name_lines, px

MAX_OVERLAID = 8
_LOG_FROM = 10.0  # highest over lowest from which a logarithmic axis tells more
_NUM_MARKS = 5  # along a curve


@dataclass(frozen=True, kw_only=True)
class Point:
    """One step of one curve."""

    x: float
    y: float
    faint: bool = False
    may_leave: bool = False  # it does not decide how high the frame is


@dataclass(frozen=True, kw_only=True)
class Line:
    """One trial's curve. Trials of one leg share its look: `look` is the leg's index."""

    label: str
    look: int
    points: Sequence[Point]


@dataclass(frozen=True)
class _Frame:
    """A plot's place and axes."""

    x: Scale
    y: Scale
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def at(self, point: Point) -> tuple[float, float]:
        # Far outside, pixels are only for the direction in which a line leaves.
        return self.x.px(point.x), max(self.y.px(point.y), self.y.end_px - 4000)


_Span = tuple[float, float, bool]
_Spans = Mapping[str | None, Sequence[_Span]]  # of each leg, and of all under None
Framing = Callable[[float, float, float, float], _Frame]


def line_chart(
    lines: Sequence[Line], *, width: int, title: str, y_label: str, description: str, log_y: bool = False
) -> Drawing:
    """Curves of at most eight legs in one plot, of more in one plot each, with the first leg's in grey beside."""
    canvas = Canvas()
    budget = (2500 if width <= NARROW else 7000) // max(1, len(lines))
    shown = [Line(label=n.label, look=n.look, points=_drawable(n.points, log_y, budget)) for n in lines]
    points = [p for line in shown for p in line.points if not math.isnan(p.y)]
    if not points:
        canvas.text(12, 30, "no steps yet")
        return canvas.finish(width, 50, title, description)
    framing = _framing(points, log_y, width)
    canvas.text(0, 14, y_label, "small")
    top = 26.0
    beyond = max(p.y for p in points)
    if beyond > framing(0, 0, 1, 1).y_ticks[-1]:
        top += 16
        canvas.text(0, 30, f"highest: {tick_text(float(f'{beyond:.3g}'))}, above the frame", "small")
    legs = list(dict.fromkeys((line.label, line.look) for line in shown))
    draw = _overlay if len(legs) <= MAX_OVERLAID else _panels
    spans = {leg: uncounted_spans([line for line in lines if line.label == leg]) for leg, _ in legs}
    bottom = draw(canvas, shown, legs, framing, width, top, spans | {None: uncounted_spans(lines)})
    return canvas.finish(width, bottom, title, description)


def uncounted_spans(lines: Sequence[Line]) -> list[_Span]:
    """From where to where steps do not count in some of the curves; True where in none of those that are there."""
    faint: dict[float, list[bool]] = {}
    for line in lines:
        for point in line.points:
            faint.setdefault(point.x, []).append(point.faint)
    spans: list[_Span] = []
    for x in sorted(faint):
        if not any(faint[x]):
            continue
        first, last, every = spans[-1] if spans else (math.nan, math.nan, False)
        if last == x - 1 and every == all(faint[x]):
            spans[-1] = (first, x, every)
        else:
            spans.append((x, x, all(faint[x])))
    return spans


def _overlay(
    canvas: Canvas,
    lines: Sequence[Line],
    legs: Sequence[tuple[str, int]],
    framing: Framing,
    width: int,
    top: float,
    spans: _Spans,
) -> float:
    narrow = width <= NARROW
    left, height = (46, 230) if narrow else (56, 320)
    frame = framing(left, top, width - 12, top + height)
    _axes(canvas, frame, spans[None], y_labels=True, x_labels=True)
    canvas.text(width - 12, top + height + 32, "step", "small", "end")
    _open(canvas, frame)
    for line in lines:
        _curve(canvas, frame, line, f"line {line_look(line.look)}")
    canvas.close_frame()
    for i, line in enumerate(lines):
        _marks(canvas, frame, line, (i + 0.5) / len(lines))
    return _legend(canvas, legs, top + height + 52, width, shaded=bool(spans[None]))


def _panels(
    canvas: Canvas,
    lines: Sequence[Line],
    legs: Sequence[tuple[str, int]],
    framing: Framing,
    width: int,
    top: float,
    spans: _Spans,
) -> float:
    columns, left, gap, height = (2, 40, 12, 84) if width <= NARROW else (4, 50, 16, 100)
    panel = (width - left - 8 - gap * (columns - 1)) / columns
    reference = next(line for line in lines if line.label == legs[0][0])
    ghost = replace(reference, points=_thinned(reference.points, 80))
    num_rows = math.ceil(len(legs) / columns)
    y = top
    for i, (label, look) in enumerate(legs):
        row, column = divmod(i, columns)
        x, y = left + column * (panel + gap), top + row * (height + 44) + 30
        own = [line for line in lines if (line.label, line.look) == (label, look)]
        frame = framing(x, y, x + panel, y + height)
        canvas.name(x, y - 6, label, panel)
        lowest = i + columns >= len(legs)
        _axes(canvas, frame, spans[label], y_labels=column == 0, x_labels=lowest)
        _open(canvas, frame)
        if i:
            _curve(canvas, frame, ghost, "ghost")
        for line in own:
            _curve(canvas, frame, line, "thin s0")
        canvas.close_frame()
    bottom = top + num_rows * (height + 44) + 26
    canvas.text(width - 8, bottom, "step", "small", "end")
    canvas.line(left, bottom - 4, left + 24, bottom - 4, "ghost")
    canvas.text(left + 30, bottom, f"grey: {name_lines(legs[0][0], 36)[0]}", "small")
    return bottom + 10


def _open(canvas: Canvas, frame: _Frame) -> None:
    left, top = frame.x.start_px - 2, frame.y.end_px
    canvas.open_frame(left, top, frame.x.end_px + 2 - left, frame.y.start_px + 2 - top)


def _axes(canvas: Canvas, frame: _Frame, spans: Sequence[_Span], *, y_labels: bool, x_labels: bool) -> None:
    left, right, bottom, top = frame.x.start_px, frame.x.end_px, frame.y.start_px, frame.y.end_px
    for first, last, every in spans:
        start, end = (min(max(frame.x.px(v), left), right) for v in (first - 0.5, last + 0.5))
        canvas.box(start, top, end - start, bottom - top, "band2" if every else "band")
    for tick in frame.y_ticks:
        y = frame.y.px(tick)
        canvas.line(left, y, right, y, "axis" if tick == frame.y_ticks[0] else "grid")
        if y_labels:
            canvas.text(left - 6, y + 4, tick_text(tick), "small number", "end")
    for tick in frame.x_ticks if x_labels else ():
        x = frame.x.px(tick)
        anchor = "start" if x < left + 8 else "end" if x > right - 8 else "middle"
        canvas.text(x, bottom + 16, tick_text(tick), "small number", anchor)


def _curve(canvas: Canvas, frame: _Frame, line: Line, look: str) -> None:
    """One path per run of equally visible points; what joins a faint point and its neighbour is faint."""
    run: list[tuple[float, float]] = []
    faint = False

    def finish() -> None:
        if run:
            canvas.path(_trace(run), f"{look} faint" if faint else look)

    for point in line.points:
        if math.isnan(point.y):
            finish()
            run = []
            continue
        at = frame.at(point)
        if run and point.faint != faint:
            joint = run[-1] if point.faint else at
            if not point.faint:
                run.append(at)
            finish()
            run = [joint] if point.faint else []
        faint = point.faint
        run.append(at)
    finish()


def _trace(run: Sequence[tuple[float, float]]) -> str:
    """A polyline as steps from point to point, from rounded pixels: no error adds up. A lone point is a dash."""
    tenths = [(round(x * 10), round(y * 10)) for x, y in run]
    (x0, y0), *rest = (
        tenths if len(tenths) > 1 else [(tenths[0][0] - 15, tenths[0][1]), (tenths[0][0] + 15, tenths[0][1])]
    )
    steps: list[str] = []
    x, y = x0, y0
    for next_x, next_y in rest:
        dy = px((next_y - y) / 10)
        steps.append(f"{px((next_x - x) / 10)}{dy if dy.startswith('-') else ' ' + dy}")
        x, y = next_x, next_y
    return f"M{px(x0 / 10)} {px(y0 / 10)}l{'l'.join(steps)}"


def _marks(canvas: Canvas, frame: _Frame, line: Line, phase: float) -> None:
    """The leg's shape at a few places, shifted between the legs so that they do not hide each other."""
    inside = [p for p in line.points if not math.isnan(p.y) and frame.at(p)[1] >= frame.y.end_px]
    at = [frame.at(p) for p in inside if not p.faint] or [frame.at(p) for p in inside]
    if not at:
        return
    width = frame.x.end_px - frame.x.start_px
    places = [frame.x.start_px + width * (k + phase) / _NUM_MARKS for k in range(_NUM_MARKS)]
    wanted = [x for x in places if at[0][0] <= x <= at[-1][0]] or [at[-1][0]]
    for x, y in dict.fromkeys(min(at, key=lambda p: abs(p[0] - w)) for w in wanted):
        canvas.mark(x, y, mark_of(line.look), 3.4)


def _legend(canvas: Canvas, legs: Sequence[tuple[str, int]], top: float, width: int, *, shaded: bool) -> float:
    left = 4 if width <= NARROW else 56
    room = width - left - 8
    widest = min(max(len(label) for label, _ in legs) * MONO_PX, 300, room - 46)
    columns = max(1, int(room // (widest + 60)))
    max_chars = int(widest / MONO_PX)
    line_px = 30 if any(len(name_lines(label, max_chars)) > 1 for label, _ in legs) else 20
    for i, (label, look) in enumerate(legs):
        row, column = divmod(i, columns)
        x, y = left + column * (room / columns), top + row * line_px + 12
        canvas.line(x, y - 4, x + 34, y - 4, f"line {line_look(look)}")
        canvas.mark(x + 17, y - 4, mark_of(look), 3.4)
        canvas.name(x + 42, y, label, widest + 1)
    bottom = top + math.ceil(len(legs) / columns) * line_px + 4
    if not shaded:
        return bottom + 4
    canvas.box(left, bottom, 34, 13, "band2")
    canvas.text(left + 42, bottom + 11, "not counted in any run", "small")
    x, y = (left, bottom + 20) if width <= NARROW else (left + 210, bottom)
    canvas.box(x, y, 34, 13, "band")
    canvas.text(x + 42, y + 11, "not counted in some", "small")
    return y + 20


def _framing(points: Sequence[Point], log_y: bool, width: int) -> Framing:
    """Axes that enclose all points that must be seen; the others only if there is nothing else."""
    counted = [p.y for p in points if not p.faint and not p.may_leave] or [p.y for p in points]
    low, high = min(counted), max(counted)
    log = log_y and high / low >= _LOG_FROM
    y_ticks = log_ticks(low, high) if log else linear_ticks(low, high)
    first, last = min(p.x for p in points), max(p.x for p in points)
    last = last if last > first else first + 1
    x_ticks = inner_ticks(first, last, 4 if width <= NARROW else 8)

    def frame(left: float, top: float, right: float, bottom: float) -> _Frame:
        x = Scale(first, last, left, right)
        few = x_ticks if right - left > 220 else [first, last]
        rows = y_ticks if bottom - top > 120 or len(y_ticks) < 5 else y_ticks[:: max(1, (len(y_ticks) - 1) // 2)]
        return _Frame(x, Scale(y_ticks[0], y_ticks[-1], bottom, top, log=log), few, [*rows[:-1], y_ticks[-1]])

    return frame


def _drawable(points: Sequence[Point], positive: bool, max_points: int) -> list[Point]:
    """Few enough points, with a gap if there is no number to draw."""
    clean = [p if math.isfinite(p.y) and (p.y > 0 or not positive) else replace(p, y=math.nan) for p in points]
    return _thinned(clean, max_points)


def _thinned(points: Sequence[Point], max_points: int) -> list[Point]:
    """The lowest and the highest point of each stretch, of those that count if there are any: no spike gets lost."""
    if len(points) <= max(4, max_points):
        return [*points]
    stretch = math.ceil(len(points) / max(1, max_points // 2))
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        numbers = [p for p in part if not math.isnan(p.y)] or [part[0]]
        numbers = [p for p in numbers if not p.faint] or numbers
        ends = (min(numbers, key=lambda p: p.y), max(numbers, key=lambda p: p.y))
        kept += sorted(dict.fromkeys(ends), key=lambda p: p.x)
    return kept
