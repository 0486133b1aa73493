"""Runs what is left of an experiment, from the lock to the exit code; launching and restoring are the same act.

How a run ended is read from storage, never from Ray: Ray returns normally after an interruption.
"""

import contextlib
import os
import signal
from collections.abc import Generator
from dataclasses import dataclass, replace

from sweeps.engine.cluster.checks import LOCAL, Resources, check_plan, why_spread
from sweeps.engine.cluster.nodes import check_holding, check_nodes
from sweeps.engine.cluster.reservations import free_reservations_of_dead_launches
from sweeps.engine.cluster.session import connected
from sweeps.engine.preflight import PreflightEvents, create_preflight
from sweeps.engine.processes import launch_processes, storage_failure
from sweeps.engine.processes.output import others_into_log
from sweeps.engine.processes.storage_retry import with_retries
from sweeps.engine.trials.context import LaunchContext, OnEvent
from sweeps.engine.trials.run import TrialsRun, is_open, nodes_for, planned_parallel, refresh_results
from sweeps.engine.watching.events import Event, ExperimentEnded, Warned
from sweeps.engine.watching.stop import StopAtOnce, StopState, signals_into
from sweeps.engine.watching.waits import reporting
from sweeps.records.documents import COMPLETED_STATES, SETTLED_STATES, Refusal, TrialState
from sweeps.records.experiment import Experiment
from sweeps.records.home import typed_name
from sweeps.records.owner import Owner
from sweeps.records.provenance import running_commit, why_unknown
from sweeps.spec.errors import Interrupted, LegsFailed, StorageFailed, SweepToolError, Terminated
from sweeps.spec.words import counted


@dataclass(frozen=True)
class LaunchResult:
    """How a run of an experiment ended."""

    exit_code: int
    completed: tuple[str, ...]
    failed: tuple[str, ...]
    dropped: tuple[str, ...]
    unfinished: tuple[str, ...]


def run_experiment(experiment: Experiment, context: LaunchContext) -> LaunchResult:
    """Runs every trial without a result, failed ones only if `context.retry` names them.

    Raises Locked while another process runs the experiment, NoCluster if there is no place for its workers or a node
    does not reach it, StorageFailed if storage does not answer for a minute.
    """
    stop = StopState(context.grace_s, context.stop_after_s)
    owner = Owner.this_process()
    with (
        _storage_in_words(experiment),
        reporting(f"a sign of life of the launcher of {experiment.id} on another host", context.on_event),
    ):
        experiment.lock(owner)
    ended_by: SweepToolError | None = None
    try:
        with _storage_in_words(experiment):
            experiment.clear_requests()
            for sentence in experiment.set_aside_damaged():
                context.on_event(Warned(message=sentence))
            for name in context.drop:
                experiment.trial(name).drop()
        _warn_of_other_code(experiment, context.on_event)
        mark = launch_processes.mark_of(experiment.uri, owner.id)
        if not launch_processes.end_leftovers(experiment.uri, mark):
            context.on_event(Warned(message="processes of an earlier launch cannot be killed; continuing without that"))
        if context.retry or any(is_open(record) for record in experiment.trials()) or context.grow(experiment):
            with (
                _cluster(experiment, context, mark) as resources,
                contextlib.suppress(StopAtOnce),
                signals_into(stop),
                _storage_in_words(experiment),
            ):
                ended_by = _run_trials(experiment, context, resources, stop)
        with _storage_in_words(experiment):
            states, refusal = with_retries(experiment.trial_states), with_retries(experiment.refusal)
        outcome = outcome_of(states, stop, refusal, ended_by)
        if outcome.exit_code == StorageFailed.exit_code:
            context = replace(context, on_event=_without_full_disks(context.on_event))
    finally:
        _unlock(experiment, context.on_event)
    refresh_results(experiment, context)  # unlocked: an unfinished experiment now reads interrupted, not running
    context.on_event(_ended(experiment, outcome))
    return outcome


@contextlib.contextmanager
def _storage_in_words(experiment: Experiment) -> Generator[None]:
    """Raises what storage raises as one sentence, with what to do."""
    try:
        yield
    except OSError as error:
        words = storage_failure.sentence(experiment.uri, typed_name(experiment.uri), str(error))
        raise StorageFailed(words) from error


def _without_full_disks(on_event: OnEvent) -> OnEvent:
    """Leaves out warnings that only repeat that there is no room."""

    def tell(event: Event) -> None:
        if not (isinstance(event, Warned) and storage_failure.is_full(event.message)):
            on_event(event)

    return tell


@contextlib.contextmanager
def _cluster(experiment: Experiment, context: LaunchContext, mark: str) -> Generator[Resources]:
    """A cluster that has a place for every trial and whose nodes reach the experiment."""
    workers = context.num_workers or experiment.plan.num_workers
    store = experiment.store
    ray_log = store.open_log("ray.log") if store.is_local else os.open(os.devnull, os.O_WRONLY)
    address = context.address or LOCAL
    name = "a private Ray cluster to start" if address == LOCAL else f"the Ray cluster at {address} to answer"
    with others_into_log(ray_log), contextlib.ExitStack() as stack:
        with reporting(name, context.on_event):
            resources = stack.enter_context(connected(address, num_workers=workers, mark=mark))
        for sentence in _check_places(experiment, context, workers, resources):
            context.on_event(Warned(message=sentence))
        with reporting("every node to say whether it reaches the storage", context.on_event):
            check_nodes(experiment.uri)
        if not resources.is_private and (freed := free_reservations_of_dead_launches()):
            message = f"{len(freed)} reservations of launches that are gone were freed on the cluster"
            context.on_event(Warned(message=message))
        yield resources
        with reporting("Ray to end its processes", context.on_event):
            stack.close()


def _check_places(experiment: Experiment, context: LaunchContext, workers: int, resources: Resources) -> Generator[str]:
    """What is worth a warning about the places of legs. Raises NoCluster if there is no place for one."""
    parallel = planned_parallel(experiment, context)
    check_plan(experiment.plan, workers, resources, on_one_node=parallel is not None)
    if parallel is None:
        spread = why_spread(experiment.plan, workers, resources)
        if spread is not None:
            yield spread
        return
    num_holding = check_holding(nodes_for(experiment, workers, resources), resources.where)
    if parallel != "auto" and parallel > num_holding:
        yield f"{counted(num_holding, 'node')} can hold a leg, so that many blocks run at a time, not {parallel}"


def _run_trials(
    experiment: Experiment, context: LaunchContext, resources: Resources, stop: StopState
) -> SweepToolError | None:
    """Returns what ended the run, if that was neither a leg nor a person."""
    for name in context.retry:  # not sooner: a launch that is rejected leaves failures final
        experiment.trial(name).undo_drop()
        experiment.trial(name).allow_retry()
    if context.preflight or (context.preflight is None and resources.num_gpus > 0):
        _run_preflight(experiment, context, resources, stop)
    run = None
    if not stop.was_asked and experiment.refusal() is None:
        run = TrialsRun(experiment, context, resources, stop)
        run.run()
        while run.ended_by is None and _may_grow(experiment, stop) and context.grow(experiment):
            run = TrialsRun(experiment, context, resources, stop)
            run.run()
    return None if run is None else run.ended_by


def _may_grow(experiment: Experiment, stop: StopState) -> bool:
    """True if nothing that is planned is left to run and nothing stopped it."""
    is_over = not any(is_open(record) for record in experiment.trials())
    return is_over and not stop.was_asked and experiment.stop_requested() is None and experiment.refusal() is None


def _run_preflight(experiment: Experiment, context: LaunchContext, resources: Resources, stop: StopState) -> None:
    """A few steps of every leg, as a separate experiment. What rejects one of them ends the whole launch."""
    short = create_preflight(experiment)
    parallel = "off" if planned_parallel(experiment, context) is None else 1
    quiet = replace(context, on_event=PreflightEvents(short, context.on_event), refresh=_no_results, parallel=parallel)
    TrialsRun(short, quiet, resources, stop, also_asked=experiment.stop_requested).run()
    refusal = short.refusal()
    if refusal is not None:
        experiment.refuse(refusal.reason, refusal.exit_code)


def _no_results(experiment: Experiment) -> None:
    """A preflight has none."""


def _unlock(experiment: Experiment, on_event: OnEvent) -> None:
    """If storage fails, as a full disk does, the next owner finds this process gone instead."""
    try:
        experiment.unlock()
    except OSError as error:
        on_event(Warned(message=f"the end of this run could not be stored: {error}; make room before you continue"))


def outcome_of(
    states: dict[str, TrialState],
    stop: StopState,
    refusal: Refusal | None = None,
    ended_by: SweepToolError | None = None,
) -> LaunchResult:
    """0 if complete. Else the code of the error that says why not: failures alone, a stop, a leg that was rejected,
    or what `ended_by` says."""
    completed = tuple(name for name, state in states.items() if state in COMPLETED_STATES)
    failed = tuple(name for name, state in states.items() if state == "failed")
    dropped = tuple(name for name, state in states.items() if state == "dropped")
    unfinished = tuple(name for name, state in states.items() if state not in SETTLED_STATES)
    if not failed and not unfinished:
        code = 0
    elif unfinished and stop.was_asked:
        code = Terminated.exit_code if stop.first == signal.SIGTERM else Interrupted.exit_code
    elif unfinished and ended_by is not None:
        code = ended_by.exit_code
    elif unfinished and refusal is not None:
        code = refusal.exit_code
    else:
        code = LegsFailed.exit_code
    return LaunchResult(code, completed, failed, dropped, unfinished)


def _warn_of_other_code(experiment: Experiment, on_event: OnEvent) -> None:
    problem = why_unknown()
    if problem is not None:
        on_event(Warned(message=problem))
    launched, running = experiment.manifest.git_commit, running_commit()
    if launched is not None and running != launched:
        running_name = running[:12] if running else "unknown"
        message = f"the code is at commit {running_name}, the experiment was launched with {launched[:12]}"
        on_event(
            Warned(message=f"{message}; what still runs is run by the present code, each attempt notes its commit")
        )


def _ended(experiment: Experiment, outcome: LaunchResult) -> ExperimentEnded:
    return ExperimentEnded(
        id=experiment.id,
        typed=typed_name(experiment.uri),
        num_trials=len(experiment.plan.trials),
        num_completed=len(outcome.completed),
        failed=outcome.failed,
        dropped=outcome.dropped,
        unfinished=outcome.unfinished,
    )
