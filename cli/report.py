"""`report`: the Markdown report of an experiment with its figures."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    exp: Annotated[
        str, typer.Argument(metavar="EXP", help="An experiment's id, a prefix of it, its folder or address.")
    ],
    out_md: Annotated[Path | None, typer.Option(metavar="PATH", help="By default EXP/report/report.md.")] = None,
    storage: Annotated[str | None, typer.Option(help="Where experiments lie.")] = None,
) -> None:
    """Write the report, and its figures beside it."""
    from cli.console import out
    from cli.stored import open_snapshot, writing
    from sweeps.results.report import report_snapshot

    experiment, snapshot = open_snapshot(exp, storage)
    with writing("--out-md"):
        file = report_snapshot(snapshot, experiment, out_md)
    out(file)
