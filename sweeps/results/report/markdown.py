"""A report as Markdown, safe for whatever a name or an error message holds."""

import re
from collections.abc import Mapping, Sequence

from sweeps.results.report.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Facts,
    Figure,
    Folded,
    Link,
    Paragraph,
    Piece,
    Report,
    Strong,
    Table,
    Words,
)
from sweeps.spec.visible import visible

_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#&~"})


def render_markdown(report: Report, figure_files: Mapping[str, str]) -> str:
    """The whole document; `figure_files` says where each figure lies, relative to it."""
    parts = [f"# {_words(report.title)}"]
    if report.question:
        parts.append(f"> {text(report.question)}")
    words = [f"**{verdict.word}.** " if verdict.word else "" for verdict in report.verdicts]
    parts += [word + _words(verdict.sentence) for word, verdict in zip(words, report.verdicts, strict=True)]
    parts += [_block(block, figure_files) for block in report.lead]
    for section in report.sections:
        parts.append(f"## {section.title}")
        parts += [_block(block, figure_files) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def text(value: str) -> str:
    """One line of plain text that Markdown shows as it is."""
    return re.sub(r"[ \t\n]+", " ", visible(value)).translate(_SPECIAL)


def code(value: str) -> str:
    """One line in code style; backticks inside are kept by a longer fence."""
    line = " ".join(visible(value).split())
    fence = "`"
    while fence in line:
        fence += "`"
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def pipe_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """A table whose columns are left-aligned, or right-aligned where `right` says so."""
    rules = ["--:" if r else ":--" for r in right]
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, rules, *rows])


def _block(block: Block, figure_files: Mapping[str, str]) -> str:
    match block:
        case Paragraph():
            return f"**{_words(block.words)}**" if block.tone == "warning" else _words(block.words)
        case Bullets():
            return "\n".join(f"- {_words(line)}" for line in block.lines) or block.empty
        case Table():
            rows = [[_cell(cell) for cell in row] for row in block.rows]
            return pipe_table([c.heading for c in block.columns], rows, [c.kind == "number" for c in block.columns])
        case Figure():
            return f"![{text(block.title)}]({figure_files[block.key]})\n\n{_words(block.caption)}"
        case Facts():
            rows = [[fact.label, fact.value, _cell(Cell(words=fact.detail))] for fact in block.facts]
            headings = ["measure", "change", "values"]
            return f"{_words(block.title)}:\n\n{pipe_table(headings, rows, [False, True, False])}"
        case Folded():
            inside = _block(block.block, figure_files)
            return f"<details><summary>{text(block.summary)}</summary>\n\n{inside}\n\n</details>"


def _cell(cell: Cell) -> str:
    """Inside a table even code must escape its bars; plain text has done so."""
    return "".join(code(p.value).replace("|", "\\|") if isinstance(p, Code) else _words((p,)) for p in cell.words)


def _words(words: Words) -> str:
    return "".join(map(_piece, words))


def _piece(piece: Piece) -> str:
    match piece:
        case Code():
            return code(piece.value)
        case Strong():
            return f"**{text(piece.value)}**"
        case Link():
            return f"[{code(piece.value)}](<{piece.address}>)"
        case str():
            return text(piece)
