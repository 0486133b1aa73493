"""`export`: the tables of an experiment as Parquet files."""

from typing import Annotated

import typer

from cli.options import AsJson, Exp, Storage


def export(
    exp: Exp,
    to: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Folder for the tables. Default: EXP/export.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Also write summary.csv and steps.csv.")] = False,
    as_json: AsJson = False,
    storage: Storage = None,
) -> None:
    """Write legs, steps, events and verdicts as Parquet.

    docs/parquet.md explains every column.
    """
    from cli.stored import open_snapshot, print_files, writing
    from sweeps.results.tables.parquet import export_snapshot, export_store

    experiment, snapshot = open_snapshot(exp, storage)
    with writing("--out"):
        files = export_snapshot(snapshot, export_store(experiment, to), csv=csv)
    print_files("export", [snapshot.manifest.id], files, as_json=as_json)
