"""`calibrate`: how much runs of one leg differ here, by training it twice in every block."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import (
    Address,
    Grace,
    MaxBlocks,
    NumSteps,
    NumWorkers,
    Preset,
    Sets,
    StopAfter,
    Storage,
    SweepName,
)
from cli.running import RunChoices, check_places

if TYPE_CHECKING:
    from sweeps.records.experiment import Experiment
    from sweeps.spec.plan import Plan


def calibrate(
    sweep: SweepName,
    leg: Annotated[str | None, typer.Option(metavar="NAME", help="The leg to run. Default: the baseline.")] = None,
    blocks: Annotated[
        str, typer.Option(metavar="N|auto", help="Times both twins run; auto: until they differ or are equal.")
    ] = "4",
    max_blocks: MaxBlocks = 8,
    inject_pct: Annotated[
        float, typer.Option(metavar="PCT", help="Delay every step of the second twin by this share of its time.")
    ] = 0.0,
    name: Annotated[str | None, typer.Option(help="Experiment id. Default: YYYYMMDD_HHMMSS_SWEEP-twins.")] = None,
    storage: Storage = None,
    preset: Preset = None,
    num_workers: NumWorkers = None,
    num_steps: NumSteps = None,
    sets: Sets = None,
    address: Address = None,
    grace_s: Grace = 60.0,
    stop_after: StopAfter = None,
) -> int:
    """Measure how much runs of one leg differ on this machine.

    Launches of sweeps in the same storage then use it as the floor of their intervals.
    """
    from cli.choices import Choices, first_blocks
    from cli.console import out
    from cli.counting import say_what_counts
    from cli.starting import run_new
    from cli.stored import open_snapshot
    from sweeps.engine.cluster.checks import check_before_start
    from sweeps.records.checkpoints import KEEP_SETTING
    from sweeps.results.decisions.calibrating import TWINS
    from sweeps.results.decisions.judgement import judge
    from sweeps.results.decisions.twins import sentences
    from sweeps.spec.plan import with_absolute_paths
    from sweeps.spec.twins import twin_plan

    check_places(storage, None)
    options = RunChoices(grace_s=grace_s, stop_after=stop_after).checked(blocks)
    choices = Choices(
        sweep=sweep,
        preset=preset,
        num_workers=num_workers,
        num_steps=num_steps,
        blocks=blocks,
        max_blocks=max_blocks,
        set=sets,
    )
    plan = with_absolute_paths(twin_plan(choices.sweep_at_size(), leg, first_blocks(blocks), max_blocks, inject_pct))
    cluster = check_before_start(plan, plan.num_workers, address or None)
    settings = choices.as_settings() | {TWINS: plan.baseline.name, "inject_pct": inject_pct, KEEP_SETTING: "none"}
    experiment = _create(plan, settings, name, storage, cluster)
    say_what_counts(plan)
    code = run_new(experiment, options, cluster=cluster, preflight=False)
    _, snapshot = open_snapshot(experiment.uri, None)
    out("\n".join(sentences(snapshot, judge(snapshot))))
    return code


def _create(
    plan: "Plan", settings: dict[str, Any], name: str | None, storage: str | None, cluster: str
) -> "Experiment":
    """The calibration's experiment. Raises UsageError where it cannot be stored."""
    from datetime import datetime

    from cli.starting import checked_root, create_experiment
    from cli.texts import read_texts
    from sweeps.records.home import new_experiment_id
    from sweeps.records.provenance import new_manifest
    from sweeps.spec.names import check_name

    id = check_name("experiment", new_experiment_id(f"{plan.sweep}-twins", datetime.now()) if name is None else name)
    root = checked_root(storage, plan, keep="none", detach=False, preflight=False)
    read_texts(plan.trials, cluster)
    return create_experiment(root, new_manifest(plan, id=id, argv=sys.argv, settings=settings), None)
