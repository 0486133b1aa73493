"""A report as one HTML file that fetches nothing: style, script and figures are inside.

It can be read without JavaScript; the script only makes tables sortable. A content security policy lets exactly this
style and this script act, by their digests, and no request leave, so even a name that slipped through unescaped could
do nothing. Every value is escaped by the template.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from sweeps.results.report.blocks import Block, Code, Figure, Link, Piece, Report, Strong, Words
from sweeps.results.report.figures.vega import STYLE
from sweeps.spec.visible import visible

_TEMPLATES = Path(__file__).parent / "templates"


def render_html(report: Report) -> str:
    """The whole page."""
    style, script = STYLE + "\n" + _file("report.css"), _file("report.js")
    return _template().render(
        report=report,
        page_title="".join(_bare(piece) for piece in report.title),
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
        inline=inline,
        drawing=drawing,
        kind=kind,
        breakable=breakable,
    )


def inline(words: Words) -> Markup:
    """Words with names in code style."""
    return Markup("").join(_piece(piece) for piece in words)


def drawing(figure: Figure, which: str) -> Markup:
    """A figure's drawing, which has escaped its own text."""
    chosen = figure.narrow if which == "narrow" else figure.wide
    return Markup(chosen.inline(f"{figure.key}-{which}"))


def kind(block: Block) -> str:
    """Which of the template's macros writes the block."""
    return type(block).__name__.lower()


def _piece(piece: Piece) -> Markup:
    if isinstance(piece, Code):
        return Markup("<code>{}</code>").format(breakable(piece.value))
    if isinstance(piece, Link):
        return Markup('<a href="{}"><code>{}</code></a>').format(piece.address, breakable(piece.value))
    if isinstance(piece, Strong):
        return Markup("<strong>{}</strong>").format(visible(piece.value))
    return escape(visible(piece))


def breakable(name: str, separators: str = "_/") -> Markup:
    """A name that may break after its separators, so that a long one does not widen the page."""
    escaped = escape(visible(name))
    for separator in separators:
        escaped = escaped.replace(separator, Markup(f"{separator}<wbr>"))
    return escaped


def _bare(piece: Piece) -> str:
    return piece if isinstance(piece, str) else piece.value


def _visible(value: object) -> object:
    """What the template writes; markup of ours is left alone."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _file(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2")
