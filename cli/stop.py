"""`stop`: asks a running experiment to end after its step, and waits until it has.

It waits, so that `stop EXP && restore EXP --num-workers 4` works; ending the wait takes nothing back.
"""

import time
from typing import TYPE_CHECKING

from cli.options import Exp, Storage

if TYPE_CHECKING:
    from sweeps.records.experiment import Experiment


def stop(
    exp: Exp,
    storage: Storage = None,
) -> None:
    """Stop a running experiment after its step, with a checkpoint.

    restore resumes it.
    """
    from cli.console import note
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import find_experiment
    from sweeps.spec.errors import CorruptData, UsageError

    experiment = Experiment.open(find_experiment(exp, storage))
    owner = experiment.owner() or experiment.owner(certain=True)
    if owner is None:
        note(f"{experiment.id} is not running ({experiment.state()}); nothing to stop")
        return
    runner = f"process {owner.pid} on {owner.host}"
    try:
        is_first = experiment.stop_requested() is None
        if is_first:
            experiment.request_stop("nanochat-sweep stop")
    except (OSError, CorruptData) as error:
        raise UsageError(
            f"the request cannot be written: {error}; interrupt {runner} instead (kill -INT {owner.pid})"
        ) from None
    asked = f"{experiment.id}: {runner} {'is asked to stop' if is_first else 'was asked to stop before'}"
    note(f"{asked}; the running leg ends after its step and writes a checkpoint (Ctrl-C only ends this wait)")
    _wait_for_the_end(experiment)
    note(_how_it_stands(experiment))


def _wait_for_the_end(experiment: "Experiment") -> None:
    while experiment.owner() is not None:
        time.sleep(0.3 if experiment.store.is_local else 3.0)


def _how_it_stands(experiment: "Experiment") -> str:
    from sweeps.records.documents import COMPLETED_STATES, ENDED_STATES
    from sweeps.records.home import typed_name
    from sweeps.spec.words import counted

    states = list(experiment.trial_states().values())
    done = sum(state in COMPLETED_STATES for state in states)
    line = f"{experiment.id} has ended: {done} of {counted(len(states), 'trial')} completed"
    is_over = experiment.state() in ENDED_STATES
    return line if is_over else f"{line}; continue with: nanochat-sweep restore {typed_name(experiment.uri)}"
