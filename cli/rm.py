"""`rm`: deletes an experiment, after a question that only a terminal can answer; elsewhere --yes answers it."""

import sys
from typing import Annotated

import typer

from cli.options import Exp, Storage


def rm(
    exp: Exp,
    storage: Storage = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete an experiment with its rows, checkpoints and results."""
    from cli.console import note, waiting_for
    from sweeps.records.home import find_experiment
    from sweeps.records.removal import check_removable, remove_experiment
    from sweeps.spec.errors import UsageError
    from sweeps.spec.words import counted

    uri = find_experiment(exp, storage)
    experiment = check_removable(uri)
    if experiment is None:
        what = f"{uri}, an experiment whose manifest is damaged"
    else:
        what = f"{uri} ({counted(len(experiment.plan.trials), 'trial')}, {experiment.state()})"
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"rm asks before it deletes {what}, and there is no terminal to ask on; add --yes")
        note(f"delete {what} with its rows, checkpoints and results? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            note("nothing was deleted")
            return
    try:
        with waiting_for("storage to delete it"):
            remove_experiment(uri)
    except OSError as error:
        raise UsageError(f"{uri} was not wholly deleted: {error}") from None
    note(f"{uri} was deleted")
