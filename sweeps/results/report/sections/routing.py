"""Where the routers of a leg stand, as a table: over all layers and in the worst one."""

from collections.abc import Sequence

from sweeps.results.measures.routing import leg_routing
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import Cell, Column, Section, Table, code_cell, number_cell
from sweeps.results.report.sections.across import Snapshots, across, noted
from sweeps.spec.legs import Leg


def routing_sections(snapshots: Snapshots) -> list[Section]:
    """The table with its note; nothing if no step reports on its layers."""
    if not any(leg_routing(s, leg) for s in snapshots for leg in s.plan.legs):
        return []
    note = (
        "Means over the last window steps of all blocks; the layer in brackets, counted from 0, is the worst. MaxVio "
        "is the load of the fullest expert over the mean load, less 1; dead experts have under 10 % of the mean load, "
        "summed over layers."
    )
    return noted("routing", "Routing", across(snapshots, routing_table), note)


def routing_table(snapshot: Snapshot) -> Table:
    """One line per leg whose steps report on layers with experts."""
    rows: list[list[Cell]] = []
    for leg in snapshot.plan.legs:
        routing = leg_routing(snapshot, leg)
        if routing is not None:
            rows.append(
                [
                    code_cell(leg.name),
                    number_cell(sum(routing.dropped_pct) / len(routing.dropped_pct), 2),
                    _worst(leg, routing.dropped_pct, 2),
                    number_cell(sum(routing.lost_tokens_pct) / len(routing.lost_tokens_pct), 2),
                    _worst(leg, routing.max_vio, 2),
                    number_cell(sum(routing.dead_experts), 2),
                ]
            )
    headings = ("dropped %", "highest dropped %", "lost tokens %", "highest MaxVio", "dead experts")
    columns = [Column(heading="leg"), *(Column(heading=heading, kind="number") for heading in headings)]
    return Table(caption="Routing of each leg, and its worst layer", columns=columns, rows=rows)


def _worst(leg: Leg, means: Sequence[float], digits: int) -> Cell:
    """The highest value with its layer, if one stands out."""
    place = max(range(len(means)), key=lambda i: means[i])
    cell = number_cell(means[place], digits)
    if leg.config.moe is None or means[place] == min(means):
        return cell
    return Cell(words=(*cell.words, f" (layer {place * leg.config.moe.every})"), order=cell.order)
