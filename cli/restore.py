"""`restore`: runs what is left of an experiment."""

from typing import Annotated

import typer

from cli.completing import legs as legs_of
from cli.grouping import takes_groups
from cli.options import Exp, NumWorkers, Storage
from cli.running import ReportedRunChoices, check_can_run, check_places, planned_workers, run_and_tell


@takes_groups
def restore(
    *,
    exp: Exp,
    storage: Storage = None,
    num_workers: NumWorkers = None,
    how: ReportedRunChoices,
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Give these legs up; complete the experiment without them.", autocompletion=legs_of
        ),
    ] = None,
    blocks: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Add blocks up to N, or until the gates are decided.")
    ] = None,
    parallel: Annotated[
        str | None,
        typer.Option(metavar="N|auto|off", help="Blocks at a time, each on one node; off: one leg."),
    ] = None,
) -> int:
    """Run what an experiment has not completed.

    The interrupted leg resumes from its checkpoint; completed and failed legs are skipped.
    """
    from cli.choices import choose_to_drop, names_of
    from cli.console import warn
    from sweeps.engine.cluster.checks import LOCAL, check_before_start
    from sweeps.engine.trials.run import is_open
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import find_experiment
    from sweeps.spec.plan import grown

    check_places(storage, exp)
    options = how.checked(blocks or "1", parallel)
    experiment = Experiment.open(find_experiment(exp, storage))
    check_can_run(experiment)
    if blocks is not None and not options.adds_until_decided:
        grown(experiment.plan, options.num_blocks)  # raises for more than there can be
    workers = planned_workers(experiment.plan, num_workers)
    leg_of = {trial.name: trial.leg.name for trial in experiment.plan.trials}
    dropped = [] if drop is None else choose_to_drop(experiment.trial_states(), leg_of, names_of("--drop", drop))
    if any(leg_of[trial] == experiment.plan.baseline.name for trial in dropped):
        warn(f"{experiment.plan.baseline.name} is the baseline: without it the report has no ratios")
    cluster = how.address or LOCAL
    if blocks is not None or any(is_open(record) and record.name not in dropped for record in experiment.trials()):
        cluster = check_before_start(experiment.plan, workers, how.address or None)  # what is complete needs no place
    return run_and_tell(experiment, options, cluster=cluster, num_workers=workers, drop=dropped)
