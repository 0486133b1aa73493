"""Text and tables in Markdown, safe for whatever a name or an error message holds."""

from collections.abc import Sequence

_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#"})


def text(value: str) -> str:
    """One line of plain text that Markdown shows as it is."""
    return " ".join(value.split()).translate(_SPECIAL)


def code(value: str) -> str:
    """One line in code style; backticks inside are kept by a longer fence."""
    line = " ".join(value.split())
    fence = "`"
    while fence in line:
        fence += "`"
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int = 1) -> str:
    """A table whose first `num_left` columns are left-aligned and the others right-aligned."""
    rules = [":--" if i < num_left else "--:" for i in range(len(headings))]
    lines = [headings, rules, *rows]
    return "\n".join(f"| {' | '.join(cell.replace(chr(10), ' ') for cell in line)} |" for line in lines)


def cell_code(value: str) -> str:
    """`code` inside a table, where even code must escape its bars."""
    return code(value).replace("|", "\\|")
