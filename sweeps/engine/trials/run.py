"""The main thread's side of a run: watches storage, reports what happens, answers signals.

Ray Tune runs in its own thread, over the trials that have no result yet, one at a time. Results are regenerated
after each leg, in another thread. Whatever Tune raises is only a warning: the records say what is done.
"""

# Ray and pyarrow are typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sweeps.engine.cluster.checks import Resources, device_of, leg_placement
from sweeps.engine.cluster.places import DRIVER_CPUS, NODE_LABEL, LegPlacement, Node
from sweeps.engine.cluster.reservations import unmet_reservation
from sweeps.engine.processes import storage_failure
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.trials.driver import TrialTask, run_trial
from sweeps.engine.trials.next_move import Policy
from sweeps.engine.trials.results import ResultsThread
from sweeps.engine.watching.events import ExperimentStarted, LegCompleted, LegFailed, Refused, Stopping, Waiting, Warned
from sweeps.engine.watching.stop import StopAtOnce, StopState, signals_into
from sweeps.engine.watching.stored_events import StoredEvents, Unready
from sweeps.engine.watching.waits import WaitClock, what_for
from sweeps.records.experiment import Experiment
from sweeps.records.home import typed_name
from sweeps.records.trial import TrialRecord
from sweeps.spec.errors import CorruptData, Locked, StorageFailed, SweepToolError
from sweeps.spec.parts import Parallel
from sweeps.spec.plan import Trial

if TYPE_CHECKING:
    from sweeps.engine.cluster.nodes import ClusterNodes
    from sweeps.engine.trials.order import PlanOrder
    from sweeps.engine.trials.side_by_side import SideBySide

JOIN_S = 1.0


def is_open(record: TrialRecord) -> bool:
    """True if a trial may still run: not completed, not dropped, and not failed unless a retry was asked for.

    One whose documents cannot be read may: its owner sets them aside.
    """
    try:
        if record.result() is not None or record.imported() is not None or record.is_dropped():
            return False
        attempts = record.attempts()
    except CorruptData:
        return True
    return not attempts or not attempts[-1].has_failed_for_good


class TrialsRun:
    """The main thread's side of a run."""

    def __init__(
        self,
        experiment: Experiment,
        context: LaunchContext,
        resources: Resources,
        stop: StopState,
        also_asked: Callable[[], str | None] = lambda: None,  # a stop of what this run is a part of
    ) -> None:
        self._experiment, self._context, self._resources = experiment, context, resources
        self._stop, self._also_asked, self._on_event = stop, also_asked, context.on_event
        self._num_workers = context.num_workers or experiment.plan.num_workers
        self._tag_of: dict[str, int] = {}  # of each trial's reservation
        self._side = self._side_by_side()
        self._order = self._plan_order() if self._side is None else self._side.order
        self._watch, self._waits = StoredEvents(experiment), dict[str, WaitClock]()
        self._num_settled = -1  # when it was last seen that no block is to be added
        self._results = ResultsThread(experiment, lambda own: refresh_results(own, context))
        self._is_stopping = False
        self._is_storage_away = False
        self._is_refused = False
        self._warnings: list[str] = []  # of Tune's thread, told by the main one
        self.ended_by: SweepToolError | None = None  # what no leg is to blame for

    def _plan_order(self) -> "PlanOrder":
        from sweeps.engine.trials.order import PlanOrder

        open_names = {record.name for record in self._experiment.trials() if is_open(record)}
        return PlanOrder([self._task(trial) for trial in self._experiment.plan.trials if trial.name in open_names])

    def _side_by_side(self) -> "SideBySide | None":
        parallel = planned_parallel(self._experiment, self._context)
        if parallel is None:
            return None
        from sweeps.engine.trials.side_by_side import SideBySide

        nodes = nodes_for(self._experiment, self._num_workers, self._resources)
        return SideBySide(self._experiment, parallel, nodes, is_open, self._task)

    def run(self) -> None:
        """Returns when Ray has nothing left to do, or when the run has to be killed: storage is safe at any moment."""
        self._on_event(self._started())
        tune = threading.Thread(target=self._run_tune, name="tune", daemon=True)
        reason = None
        with signals_into(self._stop):
            tune.start()
            try:
                while tune.is_alive() and reason is None and self.ended_by is None:
                    tune.join(JOIN_S)
                    self.look()
                    reason = self._reason_to_end()
            except StopAtOnce:
                reason = "stopped at once"
        self._results.close()
        # Not asked whether the thread is alive: an exception out of join() makes Python take it for ended.
        if reason is not None:
            self._warnings.append(f"{reason}; a restore continues from the last checkpoint")
        for message in self._warnings:
            self._on_event(Warned(message=message))
        if self.ended_by is not None:
            self._on_event(Refused(message=str(self.ended_by)))

    def _reason_to_end(self) -> str | None:
        if self._stop.is_grace_over():
            return f"the leg did not stop within {self._stop.grace_s:.0f} s and was ended"
        if self._experiment.has_another_owner():
            uri = self._experiment.uri
            self.ended_by = Locked(f"another launch has taken over {uri}, because this one was silent for a minute")
        elif self._experiment.ownership_lost():
            self._note_failure("it was not reached for a minute, so another launch may take over")
        return None

    def _hear_driver(self, result: dict[str, Any]) -> None:
        """On Tune's thread: what a driver reports. The next legs would meet the same storage."""
        if storage_failure.RESULT_KEY in result:
            self._order.stop()
            self._note_failure(str(result[storage_failure.RESULT_KEY]))

    def _note_failure(self, seen: str) -> None:
        """Storage has ended the run, or a driver in it."""
        uri = self._experiment.uri
        self.ended_by = self.ended_by or StorageFailed(storage_failure.sentence(uri, typed_name(uri), seen))

    def look(self) -> None:
        """Reports what is new in storage and passes requests on. If storage fails, the next look catches up."""
        try:
            if not self._is_stopping:
                self._look_for_stop()
            self._look_for_refusal()
            self._look_at_blocks()
            for event in self._watch.poll():
                self._on_event(event)
                if isinstance(event, LegCompleted | LegFailed):
                    self._results.ask()
            self._look_for_waits()
            self._is_storage_away = False
        except OSError as error:
            if not self._is_storage_away:
                self._on_event(Warned(message=f"storage refuses to be read, trying again: {error}"))
            self._is_storage_away = True

    def _look_for_stop(self) -> None:
        """A stop of this process becomes a request in storage; any request ends the order and starts the grace."""
        own_wish = self._stop.wish() or self._also_asked()
        if own_wish is not None:
            self._experiment.request_stop(own_wish)
        reason = own_wish or self._experiment.stop_requested()
        if reason is not None:
            self._is_stopping = True
            self._stop.begin()
            self._order.stop()
            self._on_event(Stopping(reason=reason, grace_s=self._stop.grace_s))

    def _look_at_blocks(self) -> None:
        """Reports which block got which node; adds blocks while a node is free and the gates are undecided."""
        if self._side is None:
            return
        for event, again in self._side.told():
            for name, num_attempts in again.items():
                self._watch.reopen(name, num_attempts)
            self._on_event(event)
        if self._is_stopping or self._is_refused or not self._side.order.has_idle_node:
            return
        num_settled = sum(not is_open(record) for record in self._experiment.trials())
        if num_settled == self._num_settled:
            return
        if self._context.grow_ahead(self._experiment, self._side.most_blocks):
            self._watch.look_for_more()
            self._side.order.add(range(1, self._experiment.plan.num_blocks + 1))
        else:
            self._num_settled = num_settled

    def _look_for_waits(self) -> None:
        """A leg that does not start says for what it waits."""
        found: dict[str, Unready | None] = {unready.at.trial: unready for unready in self._watch.unready()}
        is_waiting = self._order.has_more if self._side is None else self._side.order.waits_for_node
        if is_waiting and self._watch.running() is None:
            found["the next leg"] = None
        if self._is_stopping or self._is_refused:
            found = {}
        self._waits = {key: self._waits.get(key) or WaitClock() for key in found}
        for key, unready in found.items():
            seconds = self._waits[key].due(unready or key, time.monotonic())
            if seconds is not None:
                what = self._what_for(unready)
                self._on_event(Waiting(what=what, seconds=seconds, at=None if unready is None else unready.at))

    def _what_for(self, unready: Unready | None) -> str:
        if self._side is None:
            return what_for(None if unready is None else unready.phase, unmet_reservation())
        if unready is None:
            return "a free node that holds a leg"
        return what_for(unready.phase, unmet_reservation(self._tag_of.get(unready.at.trial)))

    def _look_for_refusal(self) -> None:
        """A driver that cannot start its leg says so in storage; the next ones could not start theirs either."""
        refusal = self._experiment.refusal()
        if refusal is not None and not self._is_refused:
            self._is_refused = True
            self._order.stop()
            self._on_event(Refused(message=refusal.reason))

    def _run_tune(self) -> None:
        """Whatever Tune raises is a warning: the records alone say what is done."""
        try:
            for error in self._fit().errors:
                if storage_failure.is_of_storage(getattr(error, "cause", None) or error):
                    self._note_failure(reason_of(error))
                else:
                    self._warnings.append(f"a driver ended with an error: {reason_of(error)}")
        except Exception as error:
            self._warnings.append(f"Ray Tune ended with an error: {reason_of(error)}")

    def _fit(self) -> Any:
        """Tune's own folder is scratch: what is left to do is read from ours."""
        from ray import tune

        trainable = tune.with_parameters(run_trial, train=self._context.train)
        with tempfile.TemporaryDirectory(prefix="nanochat-sweep-tune-", ignore_cleanup_errors=True) as scratch:
            tuner = tune.Tuner(
                tune.with_resources(trainable, _driver_resources),
                tune_config=tune.TuneConfig(search_alg=self._order, num_samples=-1, reuse_actors=True),
                run_config=tune.RunConfig(
                    name="trials",
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[_silent_progress(self._hear_driver)],
                    failure_config=tune.FailureConfig(max_failures=2),
                ),
            )
            return tuner.fit()

    def _task(self, trial: Trial, node: Node | None = None) -> dict[str, Any]:
        """What a trial's driver gets; `node`: to which its block is bound."""
        place = leg_placement(trial.config, self._num_workers, self._resources)
        is_private, num_gpus = self._resources.is_private, self._resources.num_gpus
        num_cores = len(os.sched_getaffinity(0))
        if node is not None:
            place, num_cores = bound_placement(), num_cores if is_private else int(node.num_cpus)
            num_gpus = int(node.num_gpus)
        tag = self._tag_of.setdefault(trial.name, len(self._tag_of) + 1)
        return TrialTask(
            experiment=self._experiment.uri,
            owner_number=self._experiment.owner_number,
            trial=trial.name,
            num_workers=self._num_workers,
            num_gpus=self._resources.num_gpus,
            num_threads=max(1, num_cores // self._num_workers),
            max_interruptions=Policy().max_interruptions,
            owns_all_gpus=is_private or self._num_workers == num_gpus,
            placement=place.strategy,
            driver_nodes=place.driver_nodes,
            tag=tag,
            node_id=None if node is None else node.id,
            node_host=None if node is None else node.host,
            step_limit_s=self._context.limits.step_s,
            first_step_limit_s=self._context.limits.first_step_s,
        ).as_config()

    def _started(self) -> ExperimentStarted:
        trials = self._experiment.plan.trials
        num_completed = sum(
            record.result() is not None or record.imported() is not None for record in self._experiment.trials()
        )
        devices = {device_of(trial.config, self._resources.num_gpus) for trial in trials}
        kind = {"cpu": "CPU worker", "cuda": "GPU"}.get("".join(devices), "worker")
        return ExperimentStarted(
            id=self._experiment.id,
            uri=self._experiment.uri,
            num_trials=len(trials),
            num_completed=num_completed,
            num_workers=self._num_workers,
            where=f"on {self._num_workers} {kind}{'' if self._num_workers == 1 else 's'}{self._in_parallel()}",
        )

    def _in_parallel(self) -> str:
        if self._side is None:
            return ""
        most = self._side.most_blocks
        return f" of one node, {'1 block' if most == 1 else f'up to {most} blocks'} at a time"


def planned_parallel(experiment: Experiment, context: LaunchContext) -> Parallel:
    """How many blocks run at the same time: what the launch says, else the plan."""
    if context.parallel == "off":
        return None
    return context.parallel if context.parallel is not None else experiment.plan.parallel


def nodes_for(experiment: Experiment, num_workers: int, resources: Resources) -> "ClusterNodes":
    """The cluster's nodes, for legs of this experiment."""
    from sweeps.engine.cluster.nodes import ClusterNodes

    devices = {device_of(trial.config, resources.num_gpus) for trial in experiment.plan.trials}
    return ClusterNodes(num_workers, on_gpu="cuda" in devices)


def bound_placement() -> LegPlacement:
    """Of a leg that has a node to itself: its driver is next to the launcher, where it outlives the leg's node."""
    import ray

    return LegPlacement("STRICT_PACK", (ray.get_runtime_context().get_node_id(),))


def _driver_resources(config: dict[str, Any]) -> Any:
    """What a trial's driver reserves, and where. One of a bound leg takes no CPU: drivers of several are in one place,
    and what they reserve could be what the last worker there needs."""
    from ray.tune import PlacementGroupFactory

    bundle: dict[str, int | float] = {"CPU": DRIVER_CPUS} if config["node_id"] is None else {"memory": 1}
    if not config["driver_nodes"]:
        return PlacementGroupFactory([bundle])
    return PlacementGroupFactory(
        [bundle], bundle_label_selector=[{NODE_LABEL: f"in({','.join(config['driver_nodes'])})"}]
    )


def _silent_progress(hear: Callable[[dict[str, Any]], None]) -> Any:
    """Takes the place of Tune's own progress lines; `hear` gets what drivers report."""
    from ray.tune.progress_reporter import TrialProgressCallback

    class Silent(TrialProgressCallback):
        hear: Callable[[dict[str, Any]], None] | None = None  # not in the copy that Tune stores

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            if self.hear is not None:
                self.hear(result)

        def on_trial_complete(self, *args: Any, **kwargs: Any) -> None: ...
        def on_trial_error(self, *args: Any, **kwargs: Any) -> None: ...

        def __getstate__(self) -> dict[str, Any]:
            return {name: value for name, value in vars(self).items() if name != "hear"}

    silent = Silent()
    silent.hear = hear
    return silent


def refresh_results(experiment: Experiment, context: LaunchContext) -> None:
    """Results can be made again at any time, so a failure to make them now stops nothing."""
    try:
        context.refresh(experiment)
    except Exception as error:
        reason = error if isinstance(error, SweepToolError) else repr(error)
        message = f"results could not be regenerated: {reason}; try again with `nanochat-sweep report`"
        context.on_event(Warned(message=message))


def reason_of(error: BaseException) -> str:
    """An error in one line. Of what a remote process raised, that error itself: Ray's own first line is its header."""
    error = getattr(error, "cause", None) or error
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
