"""`report`: what came out, as Markdown with figures and as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from cli.completing import experiments
from cli.options import AsJson, Storage


def report(
    exps: Annotated[
        list[str],
        typer.Argument(
            metavar="EXP...",
            help="Experiments: ids, prefixes of them, folders or addresses.",
            autocompletion=experiments,
        ),
    ],
    out_md: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the Markdown here, its figures next to it.")
    ] = None,
    out_html: Annotated[Path | None, typer.Option(metavar="PATH", help="Write the HTML here, one file.")] = None,
    as_json: AsJson = False,
    storage: Storage = None,
) -> None:
    """Write the report; several experiments make one summary.

    Without --out-md and --out-html, write both to EXP/report; for several experiments to ./report.
    """
    from cli.stored import open_snapshot, print_files, writing
    from sweeps.records.home import find_experiment
    from sweeps.records.store import Store
    from sweeps.results.report.build import write_chosen, write_snapshots

    opened = [open_snapshot(uri, storage) for uri in dict.fromkeys(find_experiment(exp, storage) for exp in exps)]
    snapshots = [snapshot for _, snapshot in opened]
    folder = opened[0][0].store.uri_of("report") if len(opened) == 1 else "report"
    with writing("--out-md and --out-html"):
        if out_md or out_html:
            written = write_chosen(snapshots, out_md, out_html)
        else:
            written = write_snapshots(snapshots, Store(folder))
    print_files("report", [snapshot.manifest.id for snapshot in snapshots], written, as_json=as_json)
