"""Blocks by legs: how each trial ended and how fast it was within its block.

Drift, a host that is slow in one block, or a leg that fails now and then show here and in no mean. State is a shape
with a colour, speed a number on a tint: blue is faster than the block's baseline, orange slower.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.results.report.figures.svg import MONO_PX, NARROW, Canvas, Drawing, Mark
from sweeps.spec.words import percent_change

STATE_MARKS = {
    "completed": Mark(0, 2),
    "running": Mark(7, 0, False),
    "interrupted": Mark(4, 4),
    "stopped_early": Mark(1, 3),
    "failed": Mark(6, 1),
    "dropped": Mark(6, 6, False),
    "pending": Mark(0, 6, False),
    "diverged": Mark(2, 5),
    "damaged": Mark(2, 2, False),
}
_FULL_TINT = 0.15  # the change from which the tint does not get stronger


@dataclass(frozen=True, kw_only=True)
class StripCell:
    """One trial: its state, its speed over that of the block's baseline, its place in the order of the block."""

    state: str
    ratio: float | None
    place: int
    is_baseline: bool = False


@dataclass(frozen=True, kw_only=True)
class StripRow:
    """One leg; None where it has no trial in the block."""

    label: str
    cells: Sequence[StripCell | None]


def strip_chart(rows: Sequence[StripRow], *, width: int, title: str, description: str) -> Drawing:
    """One column per block."""
    canvas = Canvas()
    narrow = width <= NARROW
    num_blocks = max(1, *(len(row.cells) for row in rows))
    left, gap = (0, 3) if narrow else (250, 4)
    wrapped = any(len(row.label) * MONO_PX > (width if narrow else left - 12) for row in rows)
    row_px = (58 if wrapped else 46) if narrow else (34 if wrapped else 30)
    each = min(150.0, (width - left - gap * (num_blocks - 1)) / num_blocks)
    for block in range(num_blocks):
        canvas.text(left + block * (each + gap) + each / 2, 14, _heading(block + 1, each), "small", "middle")
    for i, row in enumerate(rows):
        bottom = 22 + (i + 1) * row_px
        two_lines = len(row.label) * MONO_PX > left - 12
        canvas.name(0, bottom - (30 if narrow else 5 if two_lines else 10), row.label, width if narrow else left - 12)
        for block, cell in enumerate(row.cells):
            _cell(canvas, cell, left + block * (each + gap), bottom - 26, each)
    bottom = 22 + len(rows) * row_px
    present = {cell.state for row in rows for cell in row.cells if cell is not None}
    return canvas.finish(width, _legend(canvas, present, bottom + 14, width, left), title, description)


def _heading(block: int, width_px: float) -> str:
    return f"block {block}" if width_px >= 48 else str(block)


def _cell(canvas: Canvas, cell: StripCell | None, x: float, y: float, width: float) -> None:
    canvas.box(x, y, width, 24, "grid", 3)
    if cell is None:
        return
    middle = y + 12
    if cell.ratio is not None:
        strength = min(1.0, abs(cell.ratio - 1) / _FULL_TINT)
        canvas.tinted(x, y, width, 24, 0 if cell.ratio >= 1 else 1, 0.06 + 0.34 * strength)
    if width < 30:
        canvas.mark(x + width / 2, middle, STATE_MARKS[cell.state], 4)
        return
    canvas.mark(x + 11, middle, STATE_MARKS[cell.state], 4)
    speed = "" if cell.ratio is None else "baseline" if cell.is_baseline else percent_change(cell.ratio)
    if width >= 128:
        canvas.text(x + 22, middle + 4, speed or cell.state.replace("_", " "), "number")
        canvas.text(x + width - 6, middle + 4, f"#{cell.place}", "small number", "end")
    elif width >= 92:
        canvas.text(x + width - 6, middle + 4, speed, "number", "end")
    elif width >= 58:
        short = "base" if cell.is_baseline else speed.removesuffix(" %")
        canvas.text(x + width - 6, middle + 4, short, "small number", "end")


def _legend(canvas: Canvas, states: set[str], y: float, width: int, left: float) -> float:
    x = left + 8
    for state, mark in STATE_MARKS.items():
        if state not in states:
            continue
        label = state.replace("_", " ")
        needed = 16 + len(label) * 6.4 + 16
        if x > left + 8 and x + needed > width:
            x, y = left + 8, y + 20
        canvas.mark(x, y, mark, 4)
        canvas.text(x + 11, y + 4, label, "small")
        x += needed
    return y + 14
