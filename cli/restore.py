"""`restore`: runs what is left of an experiment."""

from typing import Annotated

import typer


def restore(
    exp: Annotated[
        str, typer.Argument(metavar="EXP", help="An experiment's id, a prefix of it, its folder or address.")
    ],
    storage: Annotated[str | None, typer.Option(help="Where experiments lie.")] = None,
    num_workers: Annotated[int | None, typer.Option(help="Workers per leg, if not as launched.")] = None,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster; without it a private one, as with 'local'.")
    ] = None,
    grace_s: Annotated[float, typer.Option(help="How long a stopped leg may take to write a checkpoint.")] = 60.0,
) -> int:
    """Continue an experiment: completed legs stay as they are, the interrupted one goes on at its checkpoint."""
    from cli.launch import check_grace, planned_workers, run_and_tell
    from sweeps.engine.preflight import check_before_start
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import find_experiment

    check_grace(grace_s)
    experiment = Experiment.open(find_experiment(exp, storage))
    workers = planned_workers(experiment.plan, num_workers)
    cluster = check_before_start(experiment.plan, workers, address or None)
    return run_and_tell(experiment, cluster=cluster, grace_s=grace_s, num_workers=workers)
