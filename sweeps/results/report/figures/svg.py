"""A drawing as SVG, written by hand so that the same numbers give the same bytes on any machine.

A drawing is made once and used twice: as its own file with its style inside, and inline in a page that carries the
style once. It follows the viewer's light or dark theme and has a title and a description for who cannot see it. What a
colour says, a shape or a dash says too.
"""

import re
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

from sweeps.spec.visible import visible

WIDE, NARROW = 860, 310  # for a page and for a telephone; text has the same size in both
MONO_PX = 6.65  # of one character of a label, at 11 px

Anchor = Literal["start", "middle", "end"]

# Okabe and Ito's palette: told apart with any colour vision. Yellow is darkened for white paper; in the dark, all but
# the orange ones are lightened.
_LIGHT = ("#0072b2", "#c2540a", "#00805d", "#a8518a", "#8a6d00", "#2b8cc4", "#5c6570", "#7a3b00")
_DARK = ("#58a6e6", "#f0883e", "#2fc69b", "#e394c6", "#e0c04a", "#8cd0f5", "#a3adb8", "#c99a66")
NUM_COLOURS = len(_LIGHT)
_DASHES = ("none", "7 3", "2 3", "9 3 2 3")
NUM_SHAPES = 8


def _colours(palette: tuple[str, ...]) -> str:
    return "".join(f".chart .s{i}{{stroke:{c}}}.chart .f{i}{{fill:{c}}}" for i, c in enumerate(palette))


STYLE = (
    ".chart text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328}"
    ".chart .name{font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}"
    ".chart .small{font-size:11px;fill:#59636e}.chart .head{font-weight:600}"
    ".chart .number{font-variant-numeric:tabular-nums}"
    ".chart .grid{stroke:#d8dee4;stroke-width:1;fill:none}.chart .axis{stroke:#818b98;stroke-width:1;fill:none}"
    ".chart .bound{stroke:#1f2328;stroke-width:1.2;stroke-dasharray:4 3;fill:none}"
    ".chart .band{fill:#8c959f;fill-opacity:.16}.chart .band2{fill:#8c959f;fill-opacity:.3}"
    ".chart .line{fill:none;stroke-width:1.7;stroke-linejoin:round}.chart .thin{fill:none;stroke-width:1.1}"
    ".chart .faint{opacity:.38}.chart .ghost{fill:none;stroke:#818b98;stroke-width:1.1;opacity:.75}"
    ".chart .mark{stroke-width:1.7;fill-opacity:.9}.chart .open{fill:#fff}.chart .cell{stroke-width:1}"
    + "".join(f".chart .d{i}{{stroke-dasharray:{dash}}}" for i, dash in enumerate(_DASHES))
    + _colours(_LIGHT)
    + "@media screen and (prefers-color-scheme:dark){.chart text{fill:#e6edf3}.chart .small{fill:#9198a1}"
    ".chart .grid{stroke:#343b44}.chart .axis{stroke:#656d76}.chart .bound{stroke:#e6edf3}"
    ".chart .band{fill:#9198a1}.chart .band2{fill:#9198a1}.chart .ghost{stroke:#8b949e}.chart .open{fill:#0d1117}"
    f"{_colours(_DARK)}}}"
)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A finished drawing: its size in pixels, what it is called, what it shows, its elements."""

    width: int
    height: int
    title: str
    description: str
    body: str

    def document(self) -> str:
        """An SVG file that needs nothing else."""
        return self._svg("figure", f'xmlns="http://www.w3.org/2000/svg" width="{self.width}"', STYLE) + "\n"

    def inline(self, key: str) -> str:
        """The element for a page that holds STYLE; `key` makes its ids unique there."""
        return self._svg(key, "", "")

    def _svg(self, key: str, attributes: str, style: str) -> str:
        opening = f'<svg class="chart" {attributes} viewBox="0 0 {self.width} {self.height}"'.replace("  ", " ")
        return "\n".join(
            [
                f'{opening} role="img" aria-labelledby="{key}-title {key}-desc">',
                f'<title id="{key}-title">{plain(self.title)}</title>',
                f'<desc id="{key}-desc">{plain(self.description)}</desc>',
                *([f"<style>{style}</style>"] if style else []),
                self.body,
                "</svg>",
            ]
        )


@dataclass(frozen=True)
class Mark:
    """How a small shape looks: which outline, which colour, filled or open."""

    shape: int
    colour: int
    solid: bool = True


ROLE_MARKS = {"baseline": Mark(2, 6, False), "candidate": Mark(0, 0), "grid": Mark(0, 5, False), "control": Mark(1, 1)}


class Canvas:
    """Collects elements; y grows downwards, numbers are pixels with one digit after the point."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def text(self, x: float, y: float, value: str, look: str = "", anchor: Anchor = "start") -> None:
        """A line of text on the baseline y."""
        at = "" if anchor == "start" else f' text-anchor="{anchor}"'
        look = f' class="{look}"' if look else ""
        self._parts.append(f'<text x="{px(x)}" y="{px(y)}"{look}{at}>{plain(value)}</text>')

    def name(self, x: float, y: float, value: str, max_px: float) -> float:
        """A name on one or two lines that end above y, cut in the middle if it is longer; the whole is its tooltip."""
        lines = name_lines(value, max(8, int(max_px / MONO_PX)))
        title = "" if "".join(lines) == value else f"<title>{plain(value)}</title>"
        spans = [
            f'<tspan x="{px(x)}" y="{px(y - 12 * (len(lines) - 1 - i))}">{plain(line)}</tspan>'
            for i, line in enumerate(lines)
        ]
        self._parts.append(f'<text class="name">{title}{"".join(spans)}</text>')
        return max(map(len, lines)) * MONO_PX

    def path(self, d: str, look: str) -> None:
        """Any outline."""
        self._parts.append(f'<path class="{look}" d="{d}"/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, look: str) -> None:
        """A straight line."""
        self.path(f"M{px(x1)} {px(y1)}L{px(x2)} {px(y2)}", look)

    def box(self, x: float, y: float, width: float, height: float, look: str, radius: float = 0) -> None:
        """A rectangle."""
        round_ = f' rx="{px(radius)}"' if radius else ""
        self._parts.append(
            f'<rect class="{look}" x="{px(x)}" y="{px(y)}" width="{px(width)}" height="{px(height)}"{round_}/>'
        )

    def mark(self, x: float, y: float, style: "Mark", size: float = 4) -> None:
        """A small shape around a point."""
        fill = f"f{style.colour}" if style.solid else "open"
        self.path(shape(style.shape, x, y, size), f"mark s{style.colour} {fill}")

    def tinted(self, x: float, y: float, width: float, height: float, colour: int, opacity: float) -> None:
        """A rectangle in a pale tone of a colour."""
        self._parts.append(
            f'<rect class="f{colour}" x="{px(x)}" y="{px(y)}" width="{px(width)}" height="{px(height)}" rx="3" '
            f'fill-opacity="{opacity:.2f}"/>'
        )

    def open_frame(self, x: float, y: float, width: float, height: float) -> None:
        """What follows, up to `close_frame`, is cut off outside of this rectangle."""
        x, y, width, height = (round(v, 1) for v in (x, y, width, height))
        place = f'x="{px(x)}" y="{px(y)}" width="{px(width)}" height="{px(height)}"'
        self._parts.append(f'<svg {place} viewBox="{px(x)} {px(y)} {px(width)} {px(height)}">')

    def close_frame(self) -> None:
        """Ends the frame that `open_frame` began."""
        self._parts.append("</svg>")

    def finish(self, width: int, height: float, title: str, description: str) -> Drawing:
        """The drawing of all that was put here."""
        return Drawing(
            width=width, height=round(height), title=title, description=description, body="\n".join(self._parts)
        )


def mark_of(look: int) -> Mark:
    """The mark of the leg of that index: in colour and shape together, 64 legs differ."""
    return Mark((look + look // NUM_COLOURS) % NUM_SHAPES, look % NUM_COLOURS)


def line_look(look: int) -> str:
    """The classes of a line: with its colour and dash, 32 looks differ."""
    return f"s{look % NUM_COLOURS} d{(look + look // NUM_COLOURS) % len(_DASHES)}"


def shape(kind: int, x: float, y: float, r: float) -> str:
    """The outline of circle, square, diamond, triangle, upturned triangle, plus, cross or hexagon around a point."""
    if kind == 0:
        return f"M{px(x - r)} {px(y)}a{px(r)} {px(r)} 0 1 0 {px(2 * r)} 0a{px(r)} {px(r)} 0 1 0 {px(-2 * r)} 0z"
    if kind == 5:
        return f"M{px(x - r)} {px(y)}h{px(2 * r)}M{px(x)} {px(y - r)}v{px(2 * r)}"
    if kind == 6:
        d = r * 0.8
        return f"M{px(x - d)} {px(y - d)}l{px(2 * d)} {px(2 * d)}m0 {px(-2 * d)}l{px(-2 * d)} {px(2 * d)}"
    corners = {
        1: [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        2: [(0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)],
        3: [(0, -1.1), (1.1, 0.85), (-1.1, 0.85)],
        4: [(0, 1.1), (1.1, -0.85), (-1.1, -0.85)],
        7: [(-1.1, 0), (-0.55, -0.95), (0.55, -0.95), (1.1, 0), (0.55, 0.95), (-0.55, 0.95)],
    }[kind]
    return "M" + "L".join(f"{px(x + r * dx)} {px(y + r * dy)}" for dx, dy in corners) + "z"


def name_lines(name: str, max_chars: int) -> list[str]:
    """A name on at most two lines, parted after a separator if there is one; a longer one loses its middle."""
    if len(name) <= max_chars:
        return [name]
    if len(name) > 2 * max_chars:
        half = max_chars - 1
        name = f"{name[:half]}…{name[-half:]}"
    breaks = [i + 1 for i, c in enumerate(name[:max_chars]) if c in "_-. " and len(name) - i - 1 <= max_chars]
    at = breaks[-1] if breaks else min(max_chars, len(name) - 1)
    return [name[:at], name[at:]]


def px(value: float) -> str:
    """Pixels with one digit after the point, without a needless zero or minus."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def plain(value: str) -> str:
    """Text inside an element: escaped, and without the characters that XML does not allow."""
    allowed = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", value)
    return escape(visible(allowed))
