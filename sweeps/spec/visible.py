"""Text that another person can have written, made safe to show.

A terminal obeys control characters: they clear it, rename it, or paint over a line. Characters that turn the direction
of writing make a text read as another one. Both are shown as escapes, as JSON would write them, so that the text of a
JSON document stays one. Each other medium then escapes what is special to it.
"""

import re

_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # all but tab and newline
_DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_LINES = r"\u2028\u2029"
_HALVES = r"\ud800-\udfff"  # of surrogate pairs, which no file or terminal can encode
_INVISIBLE = re.compile(f"[{_CONTROLS}{_DIRECTIONS}{_LINES}{_HALVES}\ufeff]")
_MOST_CHARS = 500


def visible(text: str) -> str:
    """The text with escapes like \\u001b for what would control a terminal or turn its writing around."""
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def shortened(line: str, most_chars: int = _MOST_CHARS) -> str:
    """A line whose end is left out if it is long."""
    return line if len(line) <= most_chars else f"{line[:most_chars]} ... ({len(line):,} characters)"
