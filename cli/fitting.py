"""Tables that fit the terminal they are printed on; elsewhere, as in a pipe, they are as wide as they like.

Names are shortened together, so that they stay different. What does not fit beside them is left out, and said to be.
"""

import shutil
import sys
from collections.abc import Sequence

from cli.console import table

LEAST_NAME = 12
_GAP = 2


def terminal_columns() -> int | None:
    """The width of the terminal that stdout is; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fitted(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    columns: int | None,
    right: Sequence[str] = (),
    dropped_first: Sequence[str] = (),
) -> tuple[str, tuple[str, ...]]:
    """A table whose first column holds names, within `columns`, and the headers that were left out for that.

    `dropped_first`: what can be left out, the least important first.
    """
    kept, left_out = list(range(len(headers))), list[str]()
    for header in dropped_first:
        if columns is None or _name_room(headers, rows, kept, columns) >= _name_need(rows):
            break
        kept.remove(headers.index(header))
        left_out.append(header)
    names = [row[0] for row in rows]
    if columns is not None and rows:
        from cli.progress_table import short_names

        names = short_names(names, max(LEAST_NAME, _name_room(headers, rows, kept, columns)))
    shown = [[name, *(row[i] for i in kept[1:])] for name, row in zip(names, rows, strict=True)]
    return table([headers[i] for i in kept], shown, right=right), tuple(left_out)


def _name_need(rows: Sequence[Sequence[str]]) -> int:
    """The width that names get before a column is left out: all they need, up to 24."""
    return min(24, max((len(row[0]) for row in rows), default=0))


def _name_room(headers: Sequence[str], rows: Sequence[Sequence[str]], kept: Sequence[int], columns: int) -> int:
    widths = [max(len(headers[i]), *(len(row[i]) for row in rows)) if rows else len(headers[i]) for i in kept[1:]]
    return columns - sum(width + _GAP for width in widths)
