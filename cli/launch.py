"""`launch`: runs a sweep from the start, as a new experiment."""

import sys
from typing import Annotated, Any

import typer

from cli.running import Address, Grace, StopAfter


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
    address: Address = None,
    grace_s: Grace = 60.0,
    stop_after: StopAfter = None,
) -> int:
    """Run every leg of a sweep, one at a time, and regenerate its results after each."""
    from datetime import datetime

    from cli.running import run_and_tell, run_options
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

    options = run_options(grace_s=grace_s, stop_after=stop_after)
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
        return run_and_tell(experiment, options, cluster=cluster, num_workers=plan.num_workers)
    except NoCluster:
        Store(root).delete_tree(id)  # nothing has run, so nothing is left behind
        raise
