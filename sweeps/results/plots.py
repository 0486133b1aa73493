"""Line charts as SVG, written by hand so that the same numbers give the same bytes on any machine.

Legs differ by colour (a palette that colour-blind people can tell apart) and by dash pattern, so a chart also works in
grey. It follows the viewer's light or dark theme and carries a title and a description. Steps whose time does not
count are drawn faintly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _PLOT_HEIGHT = 860, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 20, 44, 46
_LEGEND_LINE = 20
_MAX_POINTS = 12_000  # over all lines: about 120 kB
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b8a800")
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-size:15px;font-weight:600}"
    ".grid{stroke:#d0d7de;stroke-width:1}.line{fill:none;stroke-width:1.6}.faint{opacity:.3}"
    "@media(prefers-color-scheme:dark){text{fill:#d1d7e0}.grid{stroke:#3d444d}}"
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One step of one line."""

    x: float
    y: float
    faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """One trial's curve. Trials of one leg share its look: `look` is the leg's index."""

    label: str
    look: int
    points: Sequence[Point]


@dataclass(frozen=True)
class _Scale:
    """From a value to a pixel, over the range of the ticks."""

    low: float
    high: float
    start_px: float
    end_px: float
    log: bool = False

    def px(self, value: float) -> float:
        low, high, v = (
            (math.log10(x) for x in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start_px + (v - low) / (high - low) * (self.end_px - self.start_px)


def line_chart(lines: Sequence[Line], *, title: str, y_label: str, description: str, log_y: bool = False) -> str:
    """A complete SVG document; points that are not finite (or not positive on a log axis) leave a gap."""
    shown = [_drawable(line, log_y, _MAX_POINTS // len(lines)) for line in lines]
    points = [p for line in shown for p in line.points if not math.isnan(p.y)]
    legend = list(dict.fromkeys((line.label, line.look) for line in lines))
    height = _TOP + _PLOT_HEIGHT + _BOTTOM + _LEGEND_LINE * len(legend)
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'aria-labelledby="title description">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(description)}</desc>',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="{_LEFT}" y="24">{escape(title)}</text>',
    ]
    body += (
        _plot(shown, points, y_label, log_y) if points else [f'<text x="{_LEFT}" y="{_TOP + 40}">no steps yet</text>']
    )
    for i, (label, look) in enumerate(legend):
        y = _TOP + _PLOT_HEIGHT + _BOTTOM + _LEGEND_LINE * i + 4
        body.append(f'<path class="line" d="M{_LEFT} {y}h36" {_stroke(look)}/>')
        body.append(f'<text x="{_LEFT + 46}" y="{y + 4}">{escape(label)}</text>')
    return "\n".join([*body, "</svg>"]) + "\n"


def _plot(lines: Sequence[Line], points: Sequence[Point], y_label: str, log_y: bool) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _TOP + _PLOT_HEIGHT
    x_ticks = linear_ticks(min(p.x for p in points), max(p.x for p in points))
    y_low, y_high = min(p.y for p in points), max(p.y for p in points)
    y_ticks = log_ticks(y_low, y_high) if log_y else linear_ticks(y_low, y_high)
    x_scale = _Scale(x_ticks[0], x_ticks[-1], _LEFT, right)
    y_scale = _Scale(y_ticks[0], y_ticks[-1], bottom, _TOP, log=log_y)
    body: list[str] = []
    for tick in y_ticks:
        y = f"{y_scale.px(tick):.1f}"
        body.append(f'<path class="grid" d="M{_LEFT} {y}H{right}"/>')
        body.append(f'<text x="{_LEFT - 8}" y="{y}" dy="4" text-anchor="end">{_tick_text(tick)}</text>')
    for tick in x_ticks:
        body.append(
            f'<text x="{x_scale.px(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{_tick_text(tick)}</text>'
        )
    middle = (_LEFT + right) // 2
    body.append(f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle">step</text>')
    body.append(f'<text x="{_LEFT}" y="{_TOP - 6}">{escape(y_label)}</text>')
    for line in lines:
        body += _paths(line, x_scale, y_scale)
    return body


def _paths(line: Line, x_scale: _Scale, y_scale: _Scale) -> list[str]:
    """One path per run of equally visible points; a run reaches to the point after it, so the curve is whole."""
    paths: list[str] = []
    run: list[str] = []
    faint = False

    def finish() -> None:
        if len(run) > 1:
            look = "line faint" if faint else "line"
            paths.append(f'<path class="{look}" d="M{"L".join(run)}" {_stroke(line.look)}/>')
        elif run:
            x, _, y = run[0].partition(" ")
            paths.append(f'<circle cx="{x}" cy="{y}" r="2" fill="{_COLOURS[line.look % len(_COLOURS)]}"/>')

    for point in line.points:
        if math.isnan(point.y):
            finish()
            run = []
            continue
        at = f"{x_scale.px(point.x):.1f} {y_scale.px(point.y):.1f}"
        if run and point.faint != faint:
            run.append(at)
            finish()
            run = []
        faint = point.faint
        run.append(at)
    finish()
    return paths


def linear_ticks(low: float, high: float) -> list[float]:
    """Round numbers, about five steps, that enclose the range; never fewer than two."""
    if high <= low:
        low, high = low - (abs(low) or 1) * 0.5, low + (abs(low) or 1) * 0.5
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten (powers alone where that is many) that enclose a positive range."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = (1, 2, 5) if high < low * 1e4 else (1,)
    ladder = [m * 10.0**p for p in powers for m in steps]
    first = max(i for i, t in enumerate(ladder) if t <= low)
    last = min(i for i, t in enumerate(ladder) if t >= high)
    return ladder[first : max(last, first + 1) + 1]


def _drawable(line: Line, log_y: bool, max_points: int) -> Line:
    stride = max(1, math.ceil(len(line.points) / max(1, max_points)))
    kept = [p for i, p in enumerate(line.points) if i % stride == 0 or i == len(line.points) - 1]
    points = [
        p if math.isfinite(p.y) and (p.y > 0 or not log_y) else Point(x=p.x, y=math.nan, faint=p.faint) for p in kept
    ]
    return Line(label=line.label, look=line.look, points=points)


def _stroke(look: int) -> str:
    dash = _DASHES[(look + look // len(_COLOURS)) % len(_DASHES)]  # the 32 combinations before one repeats
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{_COLOURS[look % len(_COLOURS)]}"{dashes}'


def _tick_text(value: float) -> str:
    return f"{value:,.10g}"
