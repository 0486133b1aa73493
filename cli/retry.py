"""`retry`: runs failed legs once more, dropped ones if they are named, and what else is left of an experiment.

The failed attempts stay on record; the next one resumes from the leg's last good checkpoint.
"""

from typing import Annotated

import typer

from cli.completing import legs as legs_of
from cli.grouping import takes_groups
from cli.options import Exp, NumWorkers, Storage
from cli.running import RunChoices, check_can_run, check_places, planned_workers, run_and_tell


@takes_groups
def retry(
    *,
    exp: Exp,
    legs: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Only these, dropped ones too. Default: all that failed.", autocompletion=legs_of
        ),
    ] = None,
    storage: Storage = None,
    num_workers: NumWorkers = None,
    how: RunChoices,
) -> int:
    """Run failed legs again, then do what restore does."""
    from cli.choices import choose_to_retry, names_of
    from cli.console import note
    from sweeps.engine.cluster.checks import check_before_start
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import find_experiment
    from sweeps.spec.errors import Locked

    check_places(storage, exp)
    options = how.checked()
    experiment = Experiment.open(find_experiment(exp, storage))
    check_can_run(experiment)
    leg_of = {trial.name: trial.leg.name for trial in experiment.plan.trials}
    states = experiment.trial_states()
    chosen = choose_to_retry(states, leg_of, None if legs is None else names_of("--legs", legs))
    if not chosen:
        note(f"no leg of {experiment.id} has failed; nothing to retry")
        return 0
    owner = experiment.owner()
    if owner is not None:
        raise Locked(f"{experiment.id} is being run by process {owner.pid} on {owner.host}; retry when it has ended")
    workers = planned_workers(experiment.plan, num_workers)
    cluster = check_before_start(experiment.plan, workers, how.address or None)
    note(f"{experiment.id}: trying again {', '.join(chosen)}")
    return run_and_tell(experiment, options, cluster=cluster, num_workers=workers, retry=chosen)
