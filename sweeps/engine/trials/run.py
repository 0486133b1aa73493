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
from typing import Any

from nanochat.config import TrainConfig
from sweeps.engine.cluster.checks import Resources, device_of, leg_placement
from sweeps.engine.cluster.places import DRIVER_CPUS, NODE_LABEL
from sweeps.engine.cluster.reservations import unmet_reservation
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.trials.driver import TrialTask, run_trial
from sweeps.engine.trials.next_move import Policy
from sweeps.engine.trials.results import ResultsThread
from sweeps.engine.watching.events import ExperimentStarted, LegCompleted, LegFailed, Refused, Stopping, Waiting, Warned
from sweeps.engine.watching.stop import StopAtOnce, StopState, signals_into
from sweeps.engine.watching.stored_events import StoredEvents
from sweeps.engine.watching.waits import WaitClock, what_for
from sweeps.records.experiment import Experiment
from sweeps.records.trial import TrialRecord
from sweeps.spec.errors import CorruptData, SweepToolError

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
        from sweeps.engine.trials.order import PlanOrder

        self._experiment, self._context, self._resources = experiment, context, resources
        self._stop, self._also_asked, self._on_event = stop, also_asked, context.on_event
        self._num_workers = context.num_workers or experiment.plan.num_workers
        self._order = PlanOrder(self._tasks())
        self._watch, self._waits = StoredEvents(experiment), WaitClock()
        self._results = ResultsThread(experiment, lambda own: refresh_results(own, context))
        self._is_stopping = False
        self._is_storage_away = False
        self._is_refused = False
        self._warnings: list[str] = []  # of Tune's thread, told by the main one

    def run(self) -> None:
        """Returns when Ray has nothing left to do, or when the run has to be killed: storage is safe at any moment."""
        self._on_event(self._started())
        tune = threading.Thread(target=self._run_tune, name="tune", daemon=True)
        reason = None
        with signals_into(self._stop):
            tune.start()
            try:
                while tune.is_alive() and reason is None:
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

    def _reason_to_end(self) -> str | None:
        if self._stop.is_grace_over():
            return f"the leg did not stop within {self._stop.grace_s:.0f} s and was ended"
        if self._experiment.ownership_lost():
            return "storage was not reached for so long that another launch has taken over, or may: ended"
        return None

    def look(self) -> None:
        """Reports what is new in storage and passes requests on. If storage fails, the next look catches up."""
        try:
            if not self._is_stopping:
                self._look_for_stop()
            self._look_for_refusal()
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

    def _look_for_waits(self) -> None:
        """A leg that does not start says for what it waits."""
        unready = self._watch.unready()
        has_started = self._watch.running() is not None
        key = unready if has_started else "driver"
        if self._is_stopping or self._is_refused or (not self._order.has_more and not has_started):
            key = None
        seconds = self._waits.due(key, time.monotonic())
        if seconds is not None:
            what = what_for(None if unready is None else unready.phase, unmet_reservation())
            self._on_event(Waiting(what=what, seconds=seconds, at=None if unready is None else unready.at))

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
                    callbacks=[_silent_progress()],
                    failure_config=tune.FailureConfig(max_failures=2),
                ),
            )
            return tuner.fit()

    def _tasks(self) -> list[dict[str, Any]]:
        configs = {trial.name: trial.config for trial in self._experiment.plan.trials}
        return [
            self._task(record.name, configs[record.name]) for record in self._experiment.trials() if is_open(record)
        ]

    def _task(self, trial: str, config: TrainConfig) -> dict[str, Any]:
        place = leg_placement(config, self._num_workers, self._resources)
        return TrialTask(
            experiment=self._experiment.uri,
            trial=trial,
            num_workers=self._num_workers,
            num_gpus=self._resources.num_gpus,
            num_threads=max(1, len(os.sched_getaffinity(0)) // self._num_workers),
            max_interruptions=Policy().max_interruptions,
            owns_all_gpus=self._resources.is_private or self._num_workers == self._resources.num_gpus,
            placement=place.strategy,
            driver_nodes=place.driver_nodes,
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
            where=f"on {self._num_workers} {kind}{'' if self._num_workers == 1 else 's'}",
        )


def _driver_resources(config: dict[str, Any]) -> Any:
    """What a trial's driver reserves, and where."""
    from ray.tune import PlacementGroupFactory

    bundle = {"CPU": DRIVER_CPUS}
    if not config["driver_nodes"]:
        return PlacementGroupFactory([bundle])
    return PlacementGroupFactory(
        [bundle], bundle_label_selector=[{NODE_LABEL: f"in({','.join(config['driver_nodes'])})"}]
    )


def _silent_progress() -> Any:
    """Takes the place of Tune's own progress lines."""
    from ray.tune.progress_reporter import TrialProgressCallback

    class Silent(TrialProgressCallback):
        def on_trial_result(self, *args: Any, **kwargs: Any) -> None: ...
        def on_trial_complete(self, *args: Any, **kwargs: Any) -> None: ...
        def on_trial_error(self, *args: Any, **kwargs: Any) -> None: ...

    return Silent()


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
