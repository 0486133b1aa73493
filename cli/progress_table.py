"""A running experiment as a table that fits a terminal: legs, an overall bar, and nothing that has to be guessed.

Pure: a progress and a size give lines. Columns keep their width while numbers grow, so nothing jumps.
"""

import io
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeps.records.documents import SETTLED_STATES
from sweeps.results.measures.progress import ExperimentProgress, LegProgress
from sweeps.spec.words import fixed, grouped

_STYLES = {
    "completed": "green",
    "stopped_early": "green",
    "running": "bold cyan",
    "starting": "cyan",
    "failed": "bold red",
    "diverged": "bold red",
    "damaged": "bold red",
    "interrupted": "yellow",
    "dropped": "dim",
    "pending": "dim",
}
_MIN_WIDTHS = {"state": 11, "loss": 7, "tok/s": 9, "ETA": 7}
_DROPPED_FIRST = ("tok/s", "loss", "ETA", "node")  # on a terminal too narrow for the legs' names
_MIN_NAME_WIDTH = 12
_KEPT_HEADS = (1 / 3, 1 / 2, 2 / 3, 0, 1)  # the part of a shortened name that is its beginning
_GAP = 2
_LINES_AROUND = 5  # title, headings, what is hidden, bar, and the cursor's own


@dataclass(frozen=True)
class Look:
    """What the terminal can show."""

    columns: int = 80
    lines: int = 24
    has_colour: bool = True
    has_unicode: bool = True


def table_lines(progress: ExperimentProgress, look: Look) -> list[str]:
    """The lines to paint, none as wide as the terminal, fewer than it has."""
    width = max(20, look.columns - 1)
    shown, hidden = around_the_running(progress.legs, max(1, look.lines - _LINES_AROUND))
    parts: list[RenderableType] = [
        Text.assemble((progress.id, "bold"), ": ", (progress.state, _STYLES.get(progress.state, "bold red"))),
        _legs_table(shown, [leg.name for leg in progress.legs], width, look),
    ]
    if hidden:
        states = Counter(leg.shown_state for leg in hidden)
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        parts.append(Text(f"and {len(hidden)} more: {counts}", style="dim"))
    parts.append(_overall(progress, width, look))
    return _rendered(Group(*parts), width, look)


def around_the_running(legs: Sequence[LegProgress], most: int) -> tuple[list[LegProgress], list[LegProgress]]:
    """At most `most` legs in a row, those around the one that runs, and the others."""
    if len(legs) <= most:
        return list(legs), []
    unsettled = [i for i, leg in enumerate(legs) if leg.state not in SETTLED_STATES]
    running = [i for i in unsettled if legs[i].state == "running"]
    focus = (running or unsettled or [len(legs) - 1])[0]
    start = min(max(0, focus - most // 3), len(legs) - most)
    return list(legs[start : start + most]), [*legs[:start], *legs[start + most :]]


def short_names(names: Sequence[str], width: int, mark: str = "…") -> list[str]:
    """Different names in `width` columns, still different: without words that all share, or without their middle.

    What all begin with goes first, then all words that they share, then the middle, and rather the beginning than the
    end. Names that differ only there lose another part, or end in their place in the list.
    """
    words = [name.split("_") for name in names]
    shared = [len(set(column)) == 1 for column in zip(*words, strict=False)]
    leading = list(itertools.takewhile(bool, shared))
    stages = [list(names)]
    if len(names) > 1 and len(leading) < min(map(len, words)):
        stages.append([_without(w, leading, mark) for w in words])
        if len(set(map(len, words))) == 1:
            stages.append([_without(w, shared, mark) for w in words])
    cut = ([_without_middle(n, width, mark, part) for n in stage] for stage in stages for part in _KEPT_HEADS)
    for tried in (*stages, *cut):
        if all(len(name) <= width for name in tried) and len(set(tried)) == len(set(names)):
            return tried
    return [_numbered(name, place, width, mark) for place, name in enumerate(names, start=1)]


def _numbered(name: str, place: int, width: int, mark: str) -> str:
    end = f"{mark}{place}"
    return name[: max(0, width - len(end))] + end


def _without(words: Sequence[str], dropped: Sequence[bool], mark: str) -> str:
    """The words, the mark where some are dropped; what lies past the end of `dropped` is kept."""
    text = ""
    flags = [*dropped[: len(words)], *[False] * (len(words) - len(dropped))]
    for word, drop in zip(words, flags, strict=True):
        if not drop:
            text += word if not text or text.endswith(mark) else f"_{word}"
        elif not text.endswith(mark):
            text += mark
    return text


def duration(seconds: float) -> str:
    """How long, in at most seven characters."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours}h {m:02d}m"
    return f"{m}m {s:02d}s" if m else f"{s}s"


def _without_middle(name: str, width: int, mark: str, kept_head: float) -> str:
    """The name in `width` columns, of which its beginning gets a part and its end the rest."""
    if len(name) <= width:
        return name
    room = max(0, width - len(mark))
    head = int(room * kept_head)
    return name[:head] + mark + name[len(name) - (room - head) :]


def _legs_table(legs: Sequence[LegProgress], names: Sequence[str], width: int, look: Look) -> Table:
    """A row for each leg. Names are shortened together with those that are not shown, so that they do not change."""
    columns = {
        "state": [leg.shown_state for leg in legs],
        "step": [f"{leg.num_done}/{leg.num_steps}" for leg in legs],
        "loss": ["" if leg.loss is None else fixed(leg.loss, 4) for leg in legs],
        "tok/s": ["" if leg.tok_per_sec is None else grouped(leg.tok_per_sec, 0) for leg in legs],
        "ETA": ["" if leg.seconds_left is None else duration(leg.seconds_left) for leg in legs],
        **({"node": [leg.node or "" for leg in legs]} if any(leg.node for leg in legs) else {}),
    }
    widths = {name: max(len(name), *map(len, cells), _MIN_WIDTHS.get(name, 0)) for name, cells in columns.items()}
    widths["step"] = max(widths["step"], 2 * max(len(str(leg.num_steps)) for leg in legs) + 1)
    kept = list(columns)
    for name in _DROPPED_FIRST:
        if name in kept and _name_room(width, widths, kept) < _MIN_NAME_WIDTH:
            kept.remove(name)
    room = max(4, _name_room(width, widths, kept))
    short = dict(zip(names, short_names(names, room, "…" if look.has_unicode else ".."), strict=True))

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    table.add_column("leg", no_wrap=True, width=max(len("leg"), *map(len, short.values())))
    for name in kept:
        justify = "left" if name in ("state", "node") else "right"
        table.add_column(name, no_wrap=True, justify=justify, width=widths[name])
    for i, leg in enumerate(legs):
        style = _STYLES[columns["state"][i]]
        cells = [Text(columns[c][i], style=style if c == "state" else "") for c in kept]
        table.add_row(Text(short[leg.name], style="dim" if style == "dim" else ""), *cells)
    return table


def _name_room(width: int, widths: dict[str, int], kept: Sequence[str]) -> int:
    return width - sum(widths[name] + _GAP for name in kept)


def _overall(progress: ExperimentProgress, width: int, look: Look) -> Text:
    fraction = progress.done_fraction
    # Never 100 % before the last step: 99.6 % is 99 %.
    words = f" {int(fraction * 100)} %  {progress.num_completed} of {len(progress.legs)}"
    num_failed = sum(leg.state == "failed" for leg in progress.legs)
    words += f", {num_failed} failed" if num_failed else ""
    if progress.seconds_left is not None and progress.state == "running":
        words += f"  about {duration(progress.seconds_left)} left"
    room = max(0, min(width - len(words), 60))
    full = int(fraction * room)
    done, rest = ("━", "─") if look.has_unicode else ("#", "-")
    return Text.assemble((done * full, "green"), (rest * (room - full), "dim"), words)


def _rendered(parts: RenderableType, width: int, look: Look) -> list[str]:
    target = io.StringIO()
    console = Console(
        file=target,
        width=width,
        force_terminal=look.has_colour,
        color_system="standard" if look.has_colour else None,
        no_color=not look.has_colour,
        highlight=False,
        legacy_windows=False,
    )
    console.print(parts, no_wrap=True, overflow="crop", crop=True)
    return [line.rstrip() for line in target.getvalue().splitlines()]
