"""One table or list over several experiments: a column or a word names the experiment if there is more than one.

Every leg is compared with the baseline of its own experiment: ratios between experiments would compare hosts and days.
"""

from collections.abc import Callable, Sequence

from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import Block, Bullets, Code, Column, Paragraph, Section, Table, Words, code_cell

Snapshots = Sequence[Snapshot]


def across(snapshots: Snapshots, make: Callable[[Snapshot], Table]) -> Table:
    """One table of all experiments; a column names them if there are several."""
    tables = [make(snapshot) for snapshot in snapshots]
    if len(tables) == 1:
        return tables[0]
    rows = [
        [code_cell(snapshot.manifest.id), *row]
        for snapshot, table in zip(snapshots, tables, strict=True)
        for row in table.rows
    ]
    first = tables[0]
    return Table(caption=first.caption, columns=[Column(heading="experiment"), *first.columns], rows=rows)


def noted(key: str, title: str, block: Block, note: str) -> list[Section]:
    """A section with what to know when reading it."""
    return [Section(key=key, title=title, blocks=[block, Paragraph(words=(note,), tone="note")])]


def listed(snapshots: Snapshots, make: Callable[[Snapshot], list[Words]], empty: str = "") -> Bullets:
    """One list of all experiments, each line with the experiment's name if there are several."""
    several = len(snapshots) > 1
    lines = [(Code(s.manifest.id), ", ", *line) if several else line for s in snapshots for line in make(s)]
    return Bullets(lines=lines, empty=empty)


def listed_if_any(snapshots: Snapshots, *makers: Callable[[Snapshot], list[Words]]) -> list[Bullets]:
    """Those of the lists that have lines."""
    return [bullets for make in makers if (bullets := listed(snapshots, make)).lines]
