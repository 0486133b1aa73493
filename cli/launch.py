"""`launch`: runs a sweep from the start, as a new experiment."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.choices import Choices, checked_keep
from cli.grouping import takes_groups
from cli.options import KeepCheckpoints, Preflight, Storage
from cli.running import ReportedRunChoices, check_places

if TYPE_CHECKING:
    from cli.starting import Destination
    from sweeps.records.experiment import Experiment
    from sweeps.spec.plan import Plan


@takes_groups
def launch(
    *,
    name: Annotated[str | None, typer.Option(help="Experiment id. Default: YYYYMMDD_HHMMSS_SWEEP.")] = None,
    storage: Storage = None,
    choices: Choices,
    how: ReportedRunChoices,
    continue_from: Annotated[
        str | None, typer.Option(metavar="EXP", help="Reuse completed legs of another experiment or folder of logs.")
    ] = None,
    keep_checkpoints: KeepCheckpoints = "none",
    preflight: Preflight = None,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background.")] = False,
) -> int:
    """Run the legs of a sweep one by one, with a report after each."""
    from cli.counting import say_what_counts
    from cli.detached import start_detached
    from cli.starting import Destination, checked_root, new_id, run_new
    from sweeps.engine.cluster.checks import check_before_start
    from sweeps.records.checkpoints import KEEP_SETTING

    check_places(storage, continue_from)
    options = how.checked(choices.blocks)
    keep = checked_keep(keep_checkpoints)
    plan = choices.plan()
    cluster = check_before_start(plan, plan.num_workers, how.address or None)
    place = Destination(
        id=new_id(name, plan),
        root=checked_root(storage, plan, keep=keep, detach=detach, preflight=preflight),
        storage=storage,
    )
    settings = choices.as_settings() | {"continue_from": continue_from, KEEP_SETTING: keep}
    experiment = _create(plan, place, settings, cluster)
    say_what_counts(plan)
    return (start_detached if detach else partial(run_new, preflight=preflight))(experiment, options, cluster=cluster)


def _create(plan: "Plan", place: "Destination", settings: dict[str, Any], cluster: str) -> "Experiment":
    """The new experiment with the legs that it reuses."""
    from cli.starting import create_experiment
    from cli.takeover import choose_takeover
    from cli.texts import read_texts, tell_amount
    from sweeps.records.provenance import new_manifest

    texts = read_texts(plan.trials, cluster)
    source = settings["continue_from"]
    takeover = None if source is None else choose_takeover(source, place.storage, plan, texts)
    tell_amount(trial.config for trial in plan.trials)
    manifest = new_manifest(plan, id=place.id, argv=sys.argv, settings=settings)
    return create_experiment(place.root, manifest, takeover)
