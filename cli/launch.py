"""`launch`: runs a sweep from the start, as a new experiment."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import (
    Address,
    Blocks,
    Commit,
    Grace,
    Legs,
    MaxBlocks,
    NumSteps,
    NumWorkers,
    Preflight,
    Preset,
    ReportTo,
    Sets,
    StopAfter,
    Storage,
    SweepName,
)

if TYPE_CHECKING:
    from nanochat.stats import TextFacts
    from sweeps.records.experiment import Experiment
    from sweeps.spec.plan import Plan


def launch(
    sweep: SweepName,
    name: Annotated[str | None, typer.Option(help="Experiment id. Default: YYYYMMDD_HHMMSS_SWEEP.")] = None,
    storage: Storage = None,
    preset: Preset = None,
    num_workers: NumWorkers = None,
    num_steps: NumSteps = None,
    blocks: Blocks = "1",
    max_blocks: MaxBlocks = 8,
    legs: Legs = None,
    sets: Sets = None,
    address: Address = None,
    grace_s: Grace = 60.0,
    stop_after: StopAfter = None,
    report_to: ReportTo = None,
    commit: Commit = False,
    continue_from: Annotated[
        str | None, typer.Option(metavar="EXP", help="Reuse legs that another experiment has completed.")
    ] = None,
    preflight: Preflight = None,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background.")] = False,
) -> int:
    """Run the legs of a sweep one by one, with a report after each."""
    from datetime import datetime

    from cli.choices import Choices
    from cli.counting import say_what_counts
    from cli.detached import start_detached
    from cli.running import check_places, run_options
    from cli.starting import checked_root, create_experiment, run_new
    from cli.texts import read_texts, tell_amount
    from sweeps.engine.cluster.checks import check_before_start
    from sweeps.records.home import new_experiment_id
    from sweeps.records.provenance import new_manifest
    from sweeps.spec.names import check_name

    check_places(storage, continue_from)
    options = run_options(grace_s=grace_s, stop_after=stop_after, report_to=report_to, commit=commit, blocks=blocks)
    choices = Choices(
        sweep=sweep,
        preset=preset,
        num_workers=num_workers,
        num_steps=num_steps,
        blocks=blocks,
        max_blocks=max_blocks,
        legs=legs,
        set=sets or (),
    )
    plan = choices.plan()
    cluster = check_before_start(plan, plan.num_workers, address or None)
    id = check_name("experiment", new_experiment_id(plan.sweep, datetime.now()) if name is None else name)
    root = checked_root(storage, plan, detach, preflight)
    texts = read_texts(plan.trials, cluster)
    takeover = None if continue_from is None else _takeover(continue_from, storage, plan, texts)
    tell_amount(trial.config for trial in plan.trials)
    settings = choices.as_settings() | {"continue_from": continue_from}
    manifest = new_manifest(plan, id=id, argv=sys.argv, settings=settings)
    experiment = create_experiment(root, manifest, takeover)
    say_what_counts(plan)
    return (start_detached if detach else partial(run_new, preflight=preflight))(experiment, options, cluster=cluster)


def _takeover(
    exp: str, storage: str | None, plan: "Plan", texts: "dict[str | None, TextFacts]"
) -> "tuple[Experiment, tuple[str, ...]]":
    """The experiment to continue from and the trials it has completed. Raises UsageError where there is none."""
    from cli.console import note
    from sweeps.records.continuation import choose
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import find_experiment
    from sweeps.spec.errors import UsageError

    source = Experiment.open(find_experiment(exp, storage))
    choice = choose(source, plan, texts)
    reasons = "; ".join(f"{trial}: {reason}" for trial, reason in choice.left.items())
    if not choice.taken:
        raise UsageError(f"--continue-from {source.id} has no leg to take over ({reasons}); leave the option out")
    note(f"taken over from {source.id}: {', '.join(choice.taken)}")
    if reasons:
        note(f"to be run: {reasons}")
    return source, choice.taken
