"""A figure as a Vega-Lite specification, plain values that a test can read, and as the SVG that follows from it.

The renderer is a library without a browser and without requests. The same specification gives the same bytes. Colours
are names that the page defines, so a figure in a page follows the page's theme. A figure in a file of its own brings
them along, light and dark, with its own paper behind it: whatever the page around it looks like, it can be read.
"""

import importlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from xml.sax.saxutils import escape

from sweeps.spec.visible import visible

Spec = dict[str, Any]

WIDE, NARROW = 716, 306  # the widths in pixels that a figure is made for: a page, and a telephone
TEXT_PX = 13  # of all texts, so that none is below 11 on a page that is a little smaller

INK, SOFT, RULE, BAND = "var(--ink)", "var(--soft)", "var(--rule)", "var(--soft)"
ROLE_MARKS = {  # colour and shape of a leg's role; a shape says it without the colour
    "baseline": ("var(--soft)", "diamond"),
    "candidate": ("var(--f0)", "circle"),
    "grid": ("var(--f3)", "triangle-up"),
    "control": ("var(--f1)", "square"),
}
FASTER, SLOWER = "var(--f0)", "var(--f1)"

# Okabe and Ito's palette, darkened for white paper and lightened for dark: told apart with any colour vision.
_LIGHT = ("#0072b2", "#c2540a", "#00805d", "#a8518a")
_DARK = ("#58a6e6", "#f0883e", "#2fc69b", "#e394c6")


def _names(colours: tuple[str, ...]) -> str:
    return "".join(f"--f{i}:{colour};" for i, colour in enumerate(colours))


_SPARE_PX = 1.4  # per character
ALONE: Spec = {"values": [{}]}  # the data of a mark that is drawn once, whatever the rows

STYLE = f":root{{{_names(_LIGHT)}}}@media screen and (prefers-color-scheme:dark){{:root{{{_names(_DARK)}}}}}"
"""The colours that only figures use, for a page that defines paper, ink, soft and rule."""

_OWN_STYLE = (
    "svg{--paper:#fff;--ink:#1f2328;--soft:#59636e;--rule:#d8dee4;" + _names(_LIGHT) + "}"
    "@media screen and (prefers-color-scheme:dark){svg{--paper:#0d1117;--ink:#e6edf3;--soft:#9198a1;--rule:#343b44;"
    + _names(_DARK)
    + "}}"
)
_CONFIG: Spec = {
    "aria": False,
    "background": None,
    "font": "system-ui, -apple-system, Segoe UI, sans-serif",
    "view": {"stroke": None},
    "text": {"fontSize": TEXT_PX, "fill": INK},
    "axis": {
        "labelColor": INK,
        "titleColor": SOFT,
        "labelFontSize": TEXT_PX,
        "titleFontSize": TEXT_PX,
        "titleFontWeight": "normal",
        "gridColor": RULE,
        "domainColor": RULE,
        "tickColor": RULE,
    },
    "axisY": {"domain": False, "ticks": False, "labelPadding": 8},
    "title": {"color": INK, "fontSize": 14, "subtitleColor": SOFT, "subtitleFontSize": TEXT_PX, "anchor": "start"},
    "header": {"labelColor": INK, "labelFontSize": TEXT_PX, "titleColor": SOFT, "titleFontSize": TEXT_PX},
}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure for one width: its specification, what it is called, what it shows."""

    spec: Spec
    title: str
    description: str

    def document(self) -> str:
        """An SVG file that needs nothing else."""
        size = f'xmlns="http://www.w3.org/2000/svg" width="{self._size[0]:g}" height="{self._size[1]:g}"'
        paper = f'<style>{_OWN_STYLE}</style><rect width="100%" height="100%" fill="var(--paper)"/>'
        return self._svg("figure", size, paper) + "\n"

    def inline(self, key: str) -> str:
        """The element for a page that holds STYLE; `key` makes its ids unique there."""
        return self._svg(key, f'width="{self._size[0]:g}"', "")

    @property
    def _size(self) -> tuple[float, float]:
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', self._rendered)
        assert found is not None, "the renderer writes a viewBox"
        return float(found[1]), float(found[2])

    @property
    def _rendered(self) -> str:
        return _render(json.dumps(self.spec, sort_keys=True))

    def _svg(self, key: str, attributes: str, inside: str) -> str:
        width, height = self._size
        opening = f'<svg class="chart" {attributes} viewBox="0 0 {width:g} {height:g}"'.replace("  ", " ")
        body = self._rendered[self._rendered.index(">") + 1 :]
        body = re.sub(r"<[^>]*>", _without_roles, body)
        body = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', body)  # ids of one page must differ
        body = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", body)
        title, description = xml_text(self.title), xml_text(self.description)
        about = f'<title id="{key}-title">{title}</title><desc id="{key}-desc">{description}</desc>'
        return f'{opening} role="img" aria-labelledby="{key}-title {key}-desc">{about}{inside}{body}'


def spare_px(texts: Iterable[str]) -> float:
    """By how much the longest of some texts can be wider in a browser's font than in the renderer's."""
    return _SPARE_PX * max((len(text) for text in texts), default=0)


def _without_roles(tag: re.Match[str]) -> str:
    """A tag without the renderer's own roles: a figure is one image, whose title and description say what it shows."""
    return re.sub(r' (?:role|aria-[a-z]+)="[^"]*"', "", tag[0])


def finished(spec: Spec, *, left: float = 0, right: float = 0) -> Spec:
    """A whole specification; `left` and `right` are pixels to spare for fonts that are wider than the renderer's."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "config": _CONFIG,
        "padding": {"left": round(left) + 2, "top": 4, "right": round(right) + 4, "bottom": 4},
        **spec,
    }


def words(text: str, width: int) -> Spec:
    """A figure that has nothing to show and says why."""
    mark = {"type": "text", "align": "left", "fontSize": TEXT_PX, "fill": SOFT}
    encoding = {"x": {"value": 4}, "text": {"field": "text"}}
    return finished(
        {"width": width - 20, "height": 40, "data": {"values": [{"text": text}]}, "mark": mark, "encoding": encoding}
    )


def xml_text(value: str) -> str:
    """Text inside an element: escaped, and without the characters that XML does not allow."""
    allowed = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", value)
    return escape(visible(allowed))


@lru_cache(maxsize=64)
def _render(spec: str) -> str:
    """The renderer starts in two seconds, and is loaded with the first figure."""
    converter: Any = importlib.import_module("vl_convert")
    return converter.vegalite_to_svg(json.loads(spec), vl_version="6.4", allowed_base_urls=[])
