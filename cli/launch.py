"""`launch`: runs a sweep from the start, as a new experiment."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.running import Address, Commit, Grace, Preflight, ReportTo, StopAfter

if TYPE_CHECKING:
    from sweeps.records.documents import Manifest
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
    address: Address = None,
    grace_s: Grace = 60.0,
    stop_after: StopAfter = None,
    report_to: ReportTo = None,
    commit: Commit = False,
    continue_from: Annotated[
        str | None, typer.Option(metavar="EXP", help="Take over legs that another experiment has completed.")
    ] = None,
    preflight: Preflight = None,
    detach: Annotated[bool, typer.Option("--detach", help="Go on without this terminal.")] = False,
) -> int:
    """Run every leg of a sweep, one at a time, and regenerate its results after each."""
    from datetime import datetime

    from cli.detached import check_detachable, start_detached
    from cli.running import check_places, run_and_tell, run_options
    from sweeps.engine.cluster.checks import check_before_start, check_disk, free_bytes
    from sweeps.records.home import new_experiment_id, storage_root
    from sweeps.records.provenance import new_manifest
    from sweeps.records.store import Store
    from sweeps.spec.errors import NoCluster
    from sweeps.spec.names import check_name

    check_places(storage, continue_from)
    options = run_options(grace_s=grace_s, stop_after=stop_after, report_to=report_to, commit=commit)
    settings: dict[str, Any] = {
        "sweep": sweep,
        "preset": preset,
        "num_workers": num_workers,
        "num_steps": num_steps,
        "blocks": blocks,
        "legs": legs,
        "set": sets or [],
        "continue_from": continue_from,
    }
    plan = _plan_of(settings)
    cluster = check_before_start(plan, plan.num_workers, address or None)
    id = check_name("experiment", new_experiment_id(plan.sweep, datetime.now()) if name is None else name)
    root = storage_root(storage)
    check_disk(plan, root, free_bytes(root))
    check_detachable(root, detach, preflight=bool(preflight))
    takeover = None if continue_from is None else _takeover(continue_from, storage, plan)
    experiment = _create(root, new_manifest(plan, id=id, argv=sys.argv, settings=settings), takeover)
    if detach:
        return start_detached(experiment, options, cluster=cluster)
    try:
        return run_and_tell(experiment, options, cluster=cluster, num_workers=plan.num_workers, preflight=preflight)
    except NoCluster:
        Store(root).delete_tree(id)  # nothing has run, so nothing is left behind
        raise


def _plan_of(settings: "Mapping[str, Any]") -> "Plan":
    """The trials that the command line asks for."""
    from sweeps.spec.find import load_sweep
    from sweeps.spec.plan import choose_legs, make_plan
    from sweeps.spec.preset import apply_preset, apply_settings

    scaled = apply_preset(load_sweep(settings["sweep"]), settings["preset"])
    settled = apply_settings(
        scaled, num_workers=settings["num_workers"], num_steps=settings["num_steps"], sets=settings["set"]
    )
    plan = make_plan(settled, settings["blocks"])
    legs = settings["legs"]
    return plan if legs is None else choose_legs(plan, [leg.strip() for leg in legs.split(",")])


def _takeover(exp: str, storage: str | None, plan: "Plan") -> "tuple[Experiment, tuple[str, ...]]":
    """The experiment to continue from and the trials it has completed. Raises UsageError where there is none."""
    from cli.console import note
    from sweeps.records.continuation import choose
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import find_experiment
    from sweeps.spec.errors import UsageError

    source = Experiment.open(find_experiment(exp, storage))
    choice = choose(source, plan)
    reasons = "; ".join(f"{trial}: {reason}" for trial, reason in choice.left.items())
    if not choice.taken:
        raise UsageError(f"--continue-from {source.id} has no leg to take over ({reasons}); leave the option out")
    note(f"taken over from {source.id}: {', '.join(choice.taken)}")
    if reasons:
        note(f"to be run: {reasons}")
    return source, choice.taken


def _create(root: str, manifest: "Manifest", takeover: "tuple[Experiment, tuple[str, ...]] | None") -> "Experiment":
    """The new experiment with what it takes over."""
    from sweeps.records.continuation import copy
    from sweeps.records.experiment import Experiment
    from sweeps.records.store import Store
    from sweeps.spec.errors import UsageError

    experiment = Experiment.create(root, manifest.id, manifest)
    if takeover is not None:
        experiment.lock()  # nobody restores what is not whole yet
        try:
            copy(takeover[0], experiment, takeover[1])
        except OSError as error:
            experiment.unlock()
            Store(root).delete_tree(manifest.id)
            raise UsageError(f"legs of {takeover[0].id} cannot be copied: {error}; nothing was launched") from None
        experiment.unlock()
    return experiment
