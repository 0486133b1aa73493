"""What launch, restore and retry share: the options of a run, and running what is left of an experiment."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sweeps.records.experiment import Experiment
    from sweeps.spec.plan import Plan

Address = Annotated[
    str | None, typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster; without it a private one, as with 'local'.")
]
Grace = Annotated[float, typer.Option(help="How long a stopped leg may take to write a checkpoint.")]
StopAfter = Annotated[
    str | None, typer.Option(metavar="TIME", help="Stop as by request after this time, like 50m or 1h30m.")
]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run, checked; what to run is the experiment's."""

    grace_s: float
    stop_after_s: float | None = None


def run_options(*, grace_s: float, stop_after: str | None) -> RunOptions:
    """The options as typed. Raises UsageError for a time that cannot be."""
    from cli.duration import seconds_of
    from sweeps.spec.errors import UsageError

    if not grace_s >= 0:
        raise UsageError(f"--grace-s must be a number of seconds, 0 or more, got {grace_s:g}")
    return RunOptions(grace_s=grace_s, stop_after_s=seconds_of("--stop-after", stop_after))


def run_and_tell(experiment: "Experiment", options: RunOptions, *, cluster: str, num_workers: int) -> int:
    """Run what is left of an experiment; what happens goes to stderr, the results' places to stdout. The exit code."""
    from cli.console import out
    from cli.live import telling
    from sweeps.engine.launch import run_experiment
    from sweeps.results.report import refresh

    with telling(experiment) as tell:
        outcome = run_experiment(
            experiment,
            address=cluster,
            grace_s=options.grace_s,
            stop_after_s=options.stop_after_s,
            num_workers=num_workers,
            on_event=tell,
            refresh=refresh,
        )
    for place in ("report/report.md", "report/report.html", "export/legs.parquet", "export/steps.parquet"):
        if experiment.store.exists(place):
            out(experiment.store.uri_of(place))
    return outcome.exit_code


def planned_workers(plan: "Plan", asked: int | None) -> int:
    """The workers to run with: what the command line says, else the plan; refused where the batch does not divide."""
    from nanochat.config import ConfigError
    from nanochat.sizes import check_world_size
    from sweeps.spec.errors import UsageError

    if asked is None:
        return plan.num_workers
    if asked < 1:
        raise UsageError(f"--num-workers must be at least 1, got {asked}")
    for trial in plan.trials:
        try:
            check_world_size(trial.config, asked)
        except ConfigError as error:
            raise UsageError(f"--num-workers {asked}: {error}") from None
    return asked
