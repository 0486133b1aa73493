"""What a report is made of, said once and then written as Markdown and as HTML: the two cannot disagree.

Names, paths and commands are `Code`, everything else is plain text, and no text here holds markup: whatever a name or
an error message contains, each writer escapes it in its own way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from sweeps.results.report.figures.vega import Drawing
from sweeps.spec.words import counted, grouped


@dataclass(frozen=True)
class Code:
    """A name, a path or a command, shown unchanged."""

    value: str


@dataclass(frozen=True)
class Strong:
    """Words that must not be overlooked."""

    value: str


ABOVE = "../"
"""How the address of every link begins: the report is in a folder of the experiment's."""


@dataclass(frozen=True)
class Link:
    """A path, shown unchanged, that leads to a file next to the report."""

    value: str
    address: str  # relative, as a URL


Piece = str | Code | Strong | Link
Words = tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value of a table; `order` is what a sorted column goes by, if that is not its text."""

    words: Words
    order: float | None = None
    tone: str = ""  # a state or a role that a page may mark with a shape and a colour


@dataclass(frozen=True, kw_only=True)
class Column:
    """A heading; numbers are right-aligned and sort as numbers."""

    heading: str
    kind: Literal["text", "number"] = "text"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under headings. The caption says what they are to who cannot see the page."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = True


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A few sentences; a note explains, a warning must be read."""

    words: Words
    tone: Literal["", "note", "warning"] = ""


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """A list; `empty` is said if there is nothing."""

    lines: Sequence[Words]
    empty: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing for wide and for narrow pages, and what to know when reading it. `key` names its file."""

    key: str
    title: str
    wide: Drawing
    narrow: Drawing
    caption: Words


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A number that leads: what it is, its value, and what it is held against."""

    label: str
    value: str
    detail: Words


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A few numbers that belong together."""

    title: Words
    facts: Sequence[Fact]


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What only some readers want: closed until it is clicked, and printed open."""

    summary: str
    block: Table | Bullets


Block = Paragraph | Bullets | Table | Figure | Facts | Folded


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it; `key` is its anchor."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class VerdictLine:
    """What can be concluded, in one word and a sentence; what only goes with another one has no word."""

    word: str
    sentence: Words


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report. What leads comes before the first section."""

    title: Words
    state: str
    question: str
    verdicts: Sequence[VerdictLine]
    lead: Sequence[Block]
    sections: Sequence[Section] = field(default_factory=tuple)


def folded(block: Block, most: int, shown: int, noun: str) -> list[Block]:
    """A long table or list as its first `shown` parts and the others folded away; one of at most `most` unchanged."""
    if isinstance(block, Table) and len(block.rows) > most:
        rest = replace(block, caption=f"{block.caption}, the others", rows=block.rows[shown:], sortable=False)
        return [replace(block, rows=block.rows[:shown]), Folded(summary=_further(rest.rows, noun), block=rest)]
    if isinstance(block, Bullets) and len(block.lines) > most:
        rest_lines = Bullets(lines=block.lines[shown:])
        return [
            replace(block, lines=block.lines[:shown]),
            Folded(summary=_further(rest_lines.lines, "line"), block=rest_lines),
        ]
    return [block]


def _further(rest: Sequence[object], noun: str) -> str:
    return counted(len(rest), f"further {noun}")


def text_cell(value: str, tone: str = "") -> Cell:
    """A plain word."""
    return Cell(words=(value,), tone=tone)


def code_cell(value: str) -> Cell:
    """A name."""
    return Cell(words=(Code(value),))


def number_cell(value: float | None, digits: int | None = None) -> Cell:
    """A number with fixed digits, "-" for unknown."""
    if value is None:
        return Cell(words=("-",))
    order = float(value) if math.isfinite(value) else None
    return Cell(words=(grouped(value, digits or 0),), order=order)
