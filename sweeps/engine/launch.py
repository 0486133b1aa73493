"""Runs what is left of an experiment, from the lock to the exit code; launching and restoring are the same act.

Ray Tune runs in a thread of its own, over the trials that have no result yet, one at a time. The main thread watches
storage, tells what happens, has results regenerated after each leg, and answers signals. How it ended is read from
storage too, never from Ray: Ray returns normally after an interruption.
"""

# Ray and pyarrow are typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import contextlib
import functools
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.engine.cluster.checks import LOCAL, Resources, check_plan, device_of
from sweeps.engine.cluster.nodes import check_nodes
from sweeps.engine.cluster.session import connected
from sweeps.engine.preflight import PreflightEvents, create_preflight
from sweeps.engine.processes import launch_processes
from sweeps.engine.processes.output import others_into_log
from sweeps.engine.ranks.worker import TrainFunction
from sweeps.engine.trials.driver import TrialTask, run_trial
from sweeps.engine.trials.next_move import Policy
from sweeps.engine.watching.events import (
    Event,
    ExperimentEnded,
    ExperimentStarted,
    LegCompleted,
    LegFailed,
    Refused,
    Stopping,
    Warned,
)
from sweeps.engine.watching.hang_watch import Limits
from sweeps.engine.watching.stop import EXIT_CODES, StopAtOnce, StopState, signals_into
from sweeps.engine.watching.stored_events import Watch
from sweeps.records.documents import TrialState
from sweeps.records.experiment import Experiment
from sweeps.records.home import typed_name
from sweeps.records.owner import Owner
from sweeps.records.provenance import running_commit
from sweeps.records.trial import TrialRecord
from sweeps.spec.errors import NoCluster, SweepToolError

POLL_S = 1.0
DEFAULT_GRACE_S = 60.0

OnEvent = Callable[[Event], None]
Refresh = Callable[[Experiment], object]


@dataclass(frozen=True)
class Outcome:
    """How a run of an experiment ended."""

    exit_code: int
    completed: tuple[str, ...]
    failed: tuple[str, ...]
    unfinished: tuple[str, ...]


def run_experiment(
    experiment: Experiment,
    *,
    address: str | None = None,
    grace_s: float = DEFAULT_GRACE_S,
    stop_after_s: float | None = None,
    num_workers: int | None = None,
    on_event: OnEvent,
    refresh: Refresh,
    train: TrainFunction | None = None,
    limits: Limits | None = None,
    preflight: bool | None = False,
    retry: Sequence[str] = (),
) -> Outcome:
    """Runs every trial without a result, failed ones only where `retry` names them. `num_workers` replaces the plan's;
    `train` replaces the trainer, for tests.

    After `stop_after_s` it stops by itself, as if somebody had asked. Raises Locked while another process runs the
    experiment, NoCluster if there is no place for its workers or a node does not reach it. `preflight` first runs a few
    steps of every leg; None where legs run on GPUs.
    """
    workers = num_workers or experiment.plan.num_workers
    owner = Owner.this_process()
    experiment.lock(owner)
    try:
        experiment.clear_requests()
        _warn_of_other_code(experiment, on_event)
        mark = launch_processes.mark_of(experiment.uri, owner.id)
        if not launch_processes.end(lambda: launch_processes.leftovers(experiment.uri, mark)):
            on_event(Warned(message="processes of an earlier launch of this experiment cannot be ended; going on"))
        stop = StopState(grace_s, stop_after_s)
        if retry or any(is_open(record) for record in experiment.trials()):
            chatter = experiment.store.local_path("ray.log") or Path(os.devnull)
            with (
                others_into_log(chatter),
                connected(address or LOCAL, num_workers=workers, mark=mark) as resources,
                contextlib.suppress(StopAtOnce),
                signals_into(stop),
            ):
                check_plan(experiment.plan, workers, resources)
                check_nodes(experiment.uri)
                for name in retry:  # not sooner: a launch that is refused leaves failures final
                    experiment.trial(name).allow_retry()
                run = functools.partial(
                    _Run, num_workers=workers, resources=resources, stop=stop, train=train, limits=limits or Limits()
                )
                if preflight or (preflight is None and resources.num_gpus > 0):
                    _run_preflight(experiment, run, on_event)
                if not stop.was_asked and experiment.refusal() is None:
                    run(experiment, on_event=on_event, refresh=refresh).run()
        outcome = outcome_of(experiment.trial_states(), stop, refused=experiment.refusal() is not None)
    finally:
        _unlock(experiment, on_event)
    _refresh(experiment, refresh, on_event)  # unlocked: an unfinished experiment now reads interrupted, not running
    on_event(_ended(experiment, outcome))
    return outcome


def _unlock(experiment: Experiment, on_event: OnEvent) -> None:
    """Where storage refuses, as a full disk does, the next owner finds this process gone instead."""
    try:
        experiment.unlock()
    except OSError as error:
        on_event(Warned(message=f"the end of this run could not be stored: {error}; make room before you go on"))


def _nothing(experiment: Experiment) -> None:
    """A preflight has no results."""


def _run_preflight(experiment: Experiment, run: Callable[..., "_Run"], on_event: OnEvent) -> None:
    """A few steps of every leg, as an experiment of their own. GPUs that others use end the whole launch."""
    short = create_preflight(experiment)
    told = PreflightEvents(short, on_event)
    run(short, on_event=told, refresh=_nothing, also_asked=experiment.stop_requested).run()
    refusal = short.refusal()
    if refusal is not None:
        experiment.refuse(refusal)


def outcome_of(states: dict[str, TrialState], stop: StopState, *, refused: bool = False) -> Outcome:
    """Complete: 0. Nothing left but failures: 5. Else what stopped it: a signal's own code, 130 without one; 69 for
    GPUs that others use; 5."""
    completed = tuple(name for name, state in states.items() if state in ("completed", "stopped_early"))
    failed = tuple(name for name, state in states.items() if state == "failed")
    unfinished = tuple(name for name in states if name not in completed and name not in failed)
    if len(completed) == len(states):
        code = 0
    elif unfinished and stop.was_asked:
        code = EXIT_CODES[stop.first] if stop.first else 130
    elif unfinished and refused:
        code = NoCluster.exit_code
    else:
        code = 5
    return Outcome(code, completed, failed, unfinished)


def is_open(record: TrialRecord) -> bool:
    """Whether a trial may still be run: neither completed nor ended by its own error, unless a retry was asked for."""
    attempts = record.attempts()
    return record.result() is None and not (attempts and attempts[-1].has_failed_for_good)


class _Run:
    """The main thread's side of a run."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        num_workers: int,
        resources: Resources,
        stop: StopState,
        on_event: OnEvent,
        refresh: Refresh,
        train: TrainFunction | None,
        limits: Limits,
        also_asked: Callable[[], str | None] = lambda: None,  # a stop of what this run is a part of
    ) -> None:
        from sweeps.engine.trials.order import PlanOrder

        self._experiment, self._num_workers, self._resources = experiment, num_workers, resources
        self._stop, self._on_event, self._refresh, self._train = stop, on_event, refresh, train
        self._limits, self._also_asked = limits, also_asked
        self._order = PlanOrder(self._tasks())
        self._watch = Watch(experiment)
        self._is_stopping = False
        self._is_storage_away = False
        self._is_refused = False
        self._warnings: list[str] = []  # of Tune's thread, told by the main one

    def run(self) -> None:
        """Returns when Ray has nothing left to do, or when the run has to be ended: storage is safe at any moment."""
        self._on_event(self._started())
        tune = threading.Thread(target=self._run_tune, name="tune", daemon=True)
        reason = None
        with signals_into(self._stop):
            tune.start()
            try:
                while tune.is_alive() and reason is None:
                    tune.join(POLL_S)
                    self._look()
                    reason = self._reason_to_end()
            except StopAtOnce:
                reason = "stopped at once"
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

    def _look(self) -> None:
        """A look that storage refuses is made again; the legs themselves know what to do without it."""
        try:
            if not self._is_stopping:
                self._look_for_stop()
            self._look_for_refusal()
            for event in self._watch.poll():
                self._on_event(event)
                if isinstance(event, LegCompleted | LegFailed):
                    _refresh(self._experiment, self._refresh, self._on_event)
            self._is_storage_away = False
        except OSError as error:
            if not self._is_storage_away:
                self._on_event(Warned(message=f"storage refuses to be read, trying again: {error}"))
            self._is_storage_away = True

    def _look_for_stop(self) -> None:
        """An own wish becomes a request in storage; a request, whoever made it, ends the order and starts the grace."""
        own_wish = self._stop.wish() or self._also_asked()
        if own_wish is not None:
            self._experiment.request_stop(own_wish)
        reason = own_wish or self._experiment.stop_requested()
        if reason is not None:
            self._is_stopping = True
            self._stop.begin()
            self._order.stop()
            self._on_event(Stopping(reason=reason, grace_s=self._stop.grace_s))

    def _look_for_refusal(self) -> None:
        """A driver that cannot start its leg says so in storage; the next ones could not start theirs either."""
        reason = self._experiment.refusal()
        if reason is not None and not self._is_refused:
            self._is_refused = True
            self._order.stop()
            self._on_event(Refused(message=reason))

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

        trainable = tune.with_parameters(run_trial, train=self._train)
        with tempfile.TemporaryDirectory(prefix="nanochat-sweep-tune-", ignore_cleanup_errors=True) as scratch:
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"CPU": 0.01}),
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
        num_threads = max(1, len(os.sched_getaffinity(0)) // self._num_workers)
        return [
            TrialTask(
                experiment=self._experiment.uri,
                trial=record.name,
                num_workers=self._num_workers,
                num_gpus=self._resources.num_gpus,
                num_threads=num_threads,
                max_interruptions=Policy().max_interruptions,
                owns_all_gpus=self._resources.is_private or self._num_workers == self._resources.num_gpus,
                step_limit_s=self._limits.step_s,
                first_step_limit_s=self._limits.first_step_s,
            ).as_config()
            for record in self._experiment.trials()
            if is_open(record)
        ]

    def _started(self) -> ExperimentStarted:
        trials = self._experiment.plan.trials
        num_completed = sum(record.result() is not None for record in self._experiment.trials())
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


def _silent_progress() -> Any:
    """Takes the place of Tune's own progress lines."""
    from ray.tune.progress_reporter import TrialProgressCallback

    class Silent(TrialProgressCallback):
        def on_trial_result(self, *args: Any, **kwargs: Any) -> None: ...
        def on_trial_complete(self, *args: Any, **kwargs: Any) -> None: ...
        def on_trial_error(self, *args: Any, **kwargs: Any) -> None: ...

    return Silent()


def _refresh(experiment: Experiment, refresh: Refresh, on_event: OnEvent) -> None:
    """Results can be made again at any time, so a failure to make them now stops nothing."""
    try:
        refresh(experiment)
    except Exception as error:
        reason = error if isinstance(error, SweepToolError) else repr(error)
        on_event(Warned(message=f"results could not be regenerated: {reason}; try again with `nanochat-sweep report`"))


def _warn_of_other_code(experiment: Experiment, on_event: OnEvent) -> None:
    launched, running = experiment.manifest.git_commit, running_commit()
    if launched is not None and running != launched:
        running_name = running[:12] if running else "unknown"
        message = f"the code is at commit {running_name}, the experiment was launched with {launched[:12]}"
        on_event(
            Warned(message=f"{message}; what still runs is run by the present code, each attempt notes its commit")
        )


def _ended(experiment: Experiment, outcome: Outcome) -> ExperimentEnded:
    return ExperimentEnded(
        id=experiment.id,
        typed=typed_name(experiment.uri),
        num_trials=len(experiment.plan.trials),
        num_completed=len(outcome.completed),
        failed=outcome.failed,
        unfinished=outcome.unfinished,
    )


def reason_of(error: BaseException) -> str:
    """An error in one line. Of what a remote process raised, that error itself: Ray's own first line is its header."""
    error = getattr(error, "cause", None) or error
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
