"""`clean`: deletes checkpoints that nothing will read again; without --yes it only lists them."""

from typing import Annotated

import typer

from cli.options import Exp, Storage


def clean(
    exp: Exp,
    storage: Storage = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; else they are only listed.")] = False,
) -> None:
    """Delete checkpoints that no restore will read.

    Those of completed and dropped legs, and what a kill left half written. Rows, tables and reports stay.
    """
    from cli.console import note, out, table, waiting_for
    from sweeps.records import cleaning
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import find_experiment
    from sweeps.spec.errors import UsageError
    from sweeps.spec.words import counted

    experiment = Experiment.open(find_experiment(exp, storage))
    cleaning.check_cleanable(experiment)
    if yes:
        try:
            with waiting_for("storage to delete checkpoints"):
                found = cleaning.delete_unneeded(experiment)
        except OSError as error:
            raise UsageError(f"the checkpoints of {experiment.id} were not all deleted: {error}") from None
    else:
        found = cleaning.unneeded_checkpoints(experiment)
    if not found:
        note(f"{experiment.id} has no checkpoint that can go")
        return
    headers = ["trial", "state", "checkpoints", "MiB"]
    rows = [[each.trial, each.state, str(len(each.folders)), _mib(each.num_bytes)] for each in found]
    out(table(headers, rows, right=headers[2:]))
    num_folders, num_bytes = sum(len(each.folders) for each in found), sum(each.num_bytes for each in found)
    what = f"{counted(num_folders, 'checkpoint')}, {_mib(num_bytes)} MiB"
    note(f"{what} deleted" if yes else f"{what} can go; delete with: nanochat-sweep clean {experiment.id} --yes")


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f}"
