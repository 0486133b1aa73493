"""Where a leg's routers stand: what they drop and how unevenly they load, over all layers and in the worst one."""

from collections.abc import Sequence
from typing import Literal

from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import Cell, Column, Paragraph, Section, Table, code_cell, number_cell
from sweeps.results.report.sections import across
from sweeps.spec.legs import Leg

LayerField = Literal["layer_dropped_pct", "layer_max_vio", "layer_dead_experts", "layer_lost_tokens_pct"]


def routing_sections(snapshots: Sequence[Snapshot]) -> list[Section]:
    """The table with its note; nothing where no step has told of its layers."""
    if not any(row.layer_max_vio is not None for s in snapshots for t in s.trials for row in t.rows):
        return []
    note = (
        "Means over the last window steps of all blocks; the layer in brackets, counted from 0, is the worst. MaxVio "
        "is the load of the fullest expert over the mean load, less 1; dead experts have under 10 % of the mean load, "
        "summed over layers."
    )
    return [
        Section(
            key="routing",
            title="Routing",
            blocks=[across(snapshots, routing_table), Paragraph(words=(note,), tone="note")],
        )
    ]


def routing_table(snapshot: Snapshot) -> Table:
    """One line per leg whose steps tell of layers with experts."""
    rows: list[list[Cell]] = []
    for leg in snapshot.plan.legs:
        tail = [row for t in snapshot.of_leg(leg.name) for row in t.rows[-snapshot.plan.window_steps :]]
        dropped, overload = layer_means(tail, "layer_dropped_pct"), layer_means(tail, "layer_max_vio")
        dead, lost = layer_means(tail, "layer_dead_experts"), layer_means(tail, "layer_lost_tokens_pct")
        if dropped and overload and dead and lost:
            rows.append(
                [
                    code_cell(leg.name),
                    number_cell(sum(dropped) / len(dropped), 2),
                    _worst(leg, dropped, 2),
                    number_cell(sum(lost) / len(lost), 2),
                    _worst(leg, overload, 2),
                    number_cell(sum(dead), 2),
                ]
            )
    headings = ("dropped %", "highest dropped %", "lost tokens %", "highest MaxVio", "dead experts")
    columns = [Column(heading="leg"), *(Column(heading=heading, kind="number") for heading in headings)]
    return Table(caption="Routing of each leg, and its worst layer", columns=columns, rows=rows)


def layer_means(rows: Sequence[StepRow], field: LayerField) -> list[float]:
    """Each layer's mean over the rows that tell of layers; nothing where none does."""
    told: list[tuple[float, ...]] = [value for row in rows if (value := getattr(row, field)) is not None]
    return [sum(values) / len(told) for values in zip(*told, strict=True)]


def _worst(leg: Leg, means: Sequence[float], digits: int) -> Cell:
    """The highest value with its layer, where one stands out at all."""
    place = max(range(len(means)), key=lambda i: means[i])
    cell = number_cell(means[place], digits)
    if leg.config.moe is None or means[place] == min(means):
        return cell
    return Cell(words=(*cell.words, f" (layer {place * leg.config.moe.every})"), order=cell.order)
