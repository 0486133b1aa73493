"""`launch`: runs a sweep from the start, as a new experiment."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sweeps.records.experiment import Experiment
    from sweeps.spec.plan import Plan


def launch(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a built-in sweep.")],
    name: Annotated[str | None, typer.Option(help="The experiment's id; without it the time and the sweep.")] = None,
    storage: Annotated[str | None, typer.Option(help="Where experiments lie: a folder, or s3://...")] = None,
    preset: Annotated[str | None, typer.Option(help="Scale the sweep: tiny runs on two CPU cores.")] = None,
    num_workers: Annotated[int | None, typer.Option(help="Workers per leg; the total batch stays.")] = None,
    num_steps: Annotated[int | None, typer.Option(help="Optimizer steps per leg.")] = None,
    blocks: Annotated[int, typer.Option(help="How many times every leg runs.")] = 1,
    legs: Annotated[str | None, typer.Option(metavar="NAME,...", help="Run only these legs.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="field=value, for all legs; repeatable.")] = None,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster; without it a private one, as with 'local'.")
    ] = None,
    grace_s: Annotated[float, typer.Option(help="How long a stopped leg may take to write a checkpoint.")] = 60.0,
) -> int:
    """Run every leg of a sweep, one at a time, and regenerate its results after each."""
    from datetime import datetime

    from sweeps.engine.preflight import check_before_start
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import new_experiment_id, storage_root
    from sweeps.records.provenance import new_manifest
    from sweeps.records.store import Store
    from sweeps.spec.errors import NoCluster
    from sweeps.spec.find import load_sweep
    from sweeps.spec.names import check_name
    from sweeps.spec.plan import choose_legs, make_plan
    from sweeps.spec.preset import apply_preset, apply_settings

    check_grace(grace_s)
    scaled = apply_preset(load_sweep(sweep), preset)
    settled = apply_settings(scaled, num_workers=num_workers, num_steps=num_steps, sets=sets or [])
    plan = make_plan(settled, blocks)
    if legs is not None:
        plan = choose_legs(plan, [leg.strip() for leg in legs.split(",")])
    cluster = check_before_start(plan, plan.num_workers, address or None)
    id = check_name("experiment", new_experiment_id(plan.sweep, datetime.now()) if name is None else name)
    settings: dict[str, Any] = {
        "sweep": sweep,
        "preset": preset,
        "num_workers": num_workers,
        "num_steps": num_steps,
        "blocks": blocks,
        "legs": legs,
        "set": sets or [],
    }
    manifest = new_manifest(plan, id=id, argv=sys.argv, settings=settings)
    root = storage_root(storage)
    experiment = Experiment.create(root, id, manifest)
    try:
        return run_and_tell(experiment, cluster=cluster, grace_s=grace_s, num_workers=plan.num_workers)
    except NoCluster:
        Store(root).delete_tree(id)  # nothing has run, so nothing is left behind
        raise


def check_grace(grace_s: float) -> None:
    """Raises UsageError for a time that cannot be."""
    from sweeps.spec.errors import UsageError

    if not grace_s >= 0:
        raise UsageError(f"--grace-s must be a number of seconds, 0 or more, got {grace_s:g}")


def run_and_tell(experiment: "Experiment", *, cluster: str, grace_s: float, num_workers: int) -> int:
    """Run what is left of an experiment; what happens goes to stderr, the results' places to stdout. The exit code."""
    from cli.console import out
    from cli.live import telling
    from sweeps.engine.launch import run_experiment
    from sweeps.results.report import refresh

    with telling(experiment) as tell:
        outcome = run_experiment(
            experiment, address=cluster, grace_s=grace_s, num_workers=num_workers, on_event=tell, refresh=refresh
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
