"""The driver of one trial: what Ray Tune runs, once per trial, in a process that it reuses for the next one.

It keeps nothing in memory between two trials. In a loop it reads the trial's record, asks `next_move`, and acts: starts
an attempt (one Ray Train run with its own folder), or writes the result, or lets the trial rest. Ray's own retries
are off, because they would also repeat a leg's own error.
"""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from nanochat.config import TextError, TrainConfig
from sweeps.engine.cluster import gpus
from sweeps.engine.cluster.checks import device_of
from sweeps.engine.cluster.nodes import is_alive
from sweeps.engine.cluster.on_node import on_node
from sweeps.engine.cluster.places import NODE_LABEL
from sweeps.engine.cluster.reservations import free_reservations, tagged
from sweeps.engine.processes import launch_processes, storage_failure
from sweeps.engine.processes.storage_retry import StorageLost, with_retries
from sweeps.engine.ranks.rank import RankTask, Superseded
from sweeps.engine.ranks.stacks import end_leg, places
from sweeps.engine.ranks.worker import TrainFunction, run_rank
from sweeps.engine.ray_private import below_health_check, is_from_ray, lean_trainer
from sweeps.engine.trials.next_move import Move, Policy, StoredTrial, next_move
from sweeps.engine.watching.hang_watch import HUNG, Limits, watching
from sweeps.engine.watching.leg_timer import limiting
from sweeps.engine.watching.node_watch import watching_node
from sweeps.records.attempts import owner_number_of
from sweeps.records.checkpoints import KEEP_CHECKPOINTS, Keep, keep_of, num_kept, run_name
from sweeps.records.cleaning import keep_newest
from sweeps.records.documents import AttemptEnd, AttemptError, AttemptRecord, TrialResult, utc_now
from sweeps.records.experiment import Experiment
from sweeps.records.home import typed_name
from sweeps.records.provenance import running_code
from sweeps.records.trial import TrialRecord
from sweeps.spec.errors import CorruptData, DriftError, NoCluster, StorageFailed, SweepToolError, UsageError
from sweeps.spec.plan import Trial

_BLAMELESS = (StorageLost, Superseded)
_REFUSALS = {DriftError.__name__: DriftError.exit_code, TextError.__name__: UsageError.exit_code}
_CONTINUED_ERRORS = (*(kind.__name__ for kind in _BLAMELESS), HUNG, *_REFUSALS)


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """Everything a driver needs; plain values, so that Tune can carry it."""

    experiment: str
    owner_number: int  # of the launch
    trial: str
    num_workers: int
    num_gpus: int
    num_threads: int  # of one CPU worker
    max_interruptions: int
    owns_all_gpus: bool  # no other experiment's legs run on this cluster's GPUs
    placement: Literal["STRICT_PACK", "PACK"]  # of the workers
    driver_nodes: Sequence[str]  # ids of those that the driver may be on; none: any
    tag: int  # of the leg's reservation
    node_id: str | None  # of the node that the leg's block is bound to; None: bound to none, and no leg runs beside it
    node_host: str | None
    step_limit_s: float
    first_step_limit_s: float

    def as_config(self) -> dict[str, Any]:
        """The form that Tune passes to the driver."""
        return asdict(self)


def run_trial(config: dict[str, Any], train: TrainFunction | None = None) -> None:
    """Tune's trainable. Returns when nothing more can be done for the trial in this launch.

    If that is because storage fails, it says so to Tune, as storage cannot be told.
    """
    from ray import tune

    try:
        _run_trial(TrialTask(**config), train)
    except (OSError, SweepToolError) as error:
        if not storage_failure.is_of_storage(error):
            raise
        tune.report({storage_failure.RESULT_KEY: str(error)})


def _run_trial(task: TrialTask, train: TrainFunction | None) -> None:
    experiment = with_retries(lambda: Experiment.open(task.experiment))
    experiment.act_for(task.owner_number)
    record = experiment.trial(task.trial)
    trial = next(t for t in experiment.plan.trials if t.name == task.trial)
    policy = Policy(max_interruptions=task.max_interruptions)
    num_earlier = with_retries(lambda: len(record.attempts()))
    while True:
        match next_move(with_retries(lambda: stored_trial(experiment, record, num_earlier)), policy):
            case Move.START | Move.CONTINUE:
                if task.node_id is not None and not _can_start_on(experiment, task.node_id):
                    return
                if with_retries(experiment.refusal) is not None or _is_refused(experiment, trial.config, task):
                    return
                _make_attempt(experiment, record, trial, task, train)
            case Move.WRITE_RESULT:
                with_retries(lambda: write_result(record, trial, keep_of(experiment.manifest.settings)))
            case _:
                return


def _can_start_on(experiment: Experiment, node_id: str) -> bool:
    """True if a node lives and no leg has found it unfit. If not, the leg's block continues elsewhere."""
    return is_alive(node_id) and with_retries(lambda: experiment.refusal_on_node(node_id)) is None


def _refuse(experiment: Experiment, task_node: str | None, reason: str, exit_code: int) -> None:
    """Of a bound leg its node alone is refused; else the launch, as the next leg would meet the same."""
    if task_node is None:
        with_retries(lambda: experiment.refuse(reason, exit_code))
    else:
        with_retries(lambda: experiment.refuse_on_node(task_node, reason, exit_code))


def _is_refused(experiment: Experiment, config: TrainConfig, task: TrialTask) -> bool:
    """Whether others use the leg's GPUs, which the launcher knows. Where other jobs share the cluster it is not known
    which GPUs will be the leg's."""
    import ray

    if device_of(config, task.num_gpus) != "cuda" or not task.owns_all_gpus:
        return False
    mark = launch_processes.own_mark()
    nodes: list[dict[str, Any]] = ray.nodes()
    with_gpus = [node["NodeID"] for node in nodes if node["Alive"] and node["Resources"].get("GPU")]
    asked = [id for id in with_gpus if task.node_id in (None, id)]
    living = [] if task.node_id is None else _living_legs(experiment, task, mark)
    refusals = [refusal for id in asked if (refusal := on_node(id, gpus.free, mark, None, living))]
    if refusals:
        _refuse(experiment, task.node_id, refusals[0], NoCluster.exit_code)
    return bool(refusals)


def _living_legs(experiment: Experiment, task: TrialTask, mark: str) -> list[str]:
    """The marks of legs that run beside this one and have a process on its node's GPUs: two nodes share a GPU then."""
    assert task.node_id is not None
    found = on_node(task.node_id, gpus.legs_on_gpus, mark)
    others = {
        launch_processes.leg_mark(experiment.uri, trial.name): trial.name
        for trial in experiment.plan.trials
        if trial.name != task.trial
    }
    living: list[str] = []
    for leg in found:
        if leg in others:
            attempts = with_retries(experiment.trial(others[leg]).attempts)
            if attempts and attempts[-1].end is None:
                living.append(leg)
    return living


def stored_trial(experiment: Experiment, record: TrialRecord, num_earlier: int) -> StoredTrial:
    """What the next move depends on, as storage has it now."""
    attempts = record.attempts()
    ends: list[AttemptEnd | None] = [attempt.end for attempt in attempts]
    return StoredTrial(
        has_result=record.result() is not None,
        has_newer_owner=bool(attempts and experiment.owner_number)
        and owner_number_of(attempts[-1].number) > experiment.owner_number,
        stop_requested=experiment.stop_requested() is not None,
        ends=ends,
        num_earlier=num_earlier,
        retry_asked=bool(attempts) and attempts[-1].retry_utc is not None,
        again_asked=bool(attempts) and attempts[-1].again_utc is not None,
    )


def _make_attempt(
    experiment: Experiment, record: TrialRecord, trial: Trial, task: TrialTask, train: TrainFunction | None
) -> None:
    """One attempt, from its record's opening to its end, after which no process of it is left."""
    free_reservations(None if task.node_id is None else task.tag)
    attempt = with_retries(lambda: _open_attempt(record, trial.config, task))
    limits = Limits(first_step_s=task.first_step_limit_s, step_s=task.step_limit_s)
    error: Exception | None = None
    begin, number = time.monotonic(), attempt.number
    try:
        with (
            watching(experiment, record.name, number, limits),
            limiting(experiment, record.name, number),
            watching_node(task.node_id, task.tag),
        ):
            _fit(record, attempt.number, trial.config, task, train)
    except Exception as raised:  # whatever it is, it ended the attempt; the record says what follows
        error = raised
    _end_what_is_left(experiment, record.name, attempt.number)
    run_s = time.monotonic() - begin
    with_retries(lambda: close_attempt(experiment, record, attempt.number, error, run_s, task.node_id))


def _end_what_is_left(experiment: Experiment, trial: str, attempt: int) -> None:
    """Ray ends the ranks; compilers and loaders that they started can stay, and would hold memory of the next leg."""
    ranks = with_retries(lambda: places(experiment.store, trial, attempt))
    mark, leg = launch_processes.own_mark(), launch_processes.leg_mark(experiment.uri, trial)
    for node_id in dict.fromkeys(place.node_id for place in ranks):
        with contextlib.suppress(Exception):  # a node that is gone keeps no process
            on_node(node_id, end_leg, mark, leg, [place for place in ranks if place.node_id == node_id])


def _open_attempt(record: TrialRecord, config: TrainConfig, task: TrialTask) -> AttemptRecord:
    record.write_config(config)
    return record.start_attempt(
        num_workers=task.num_workers,
        owner_number=task.owner_number,
        code=running_code(),
        node_id=task.node_id,
        node_host=task.node_host,
    )


def close_attempt(
    experiment: Experiment,
    record: TrialRecord,
    number: int,
    error: Exception | None,
    run_s: float,
    node_id: str | None = None,
) -> None:
    """What the attempt found of the text may refuse the whole launch, as the other legs would read the same text; of a
    leg that is bound to a node, `node_id`, it refuses that node, whose copy it is."""
    stored = record.attempt(number)
    if stored.error is not None and stored.error.type in _REFUSALS:
        _refuse(experiment, node_id, stored.error.message, _REFUSALS[stored.error.type])
    ended = stored if stored.end is not None else _judged(stored, error)
    if ended.end == "interrupted" and ended.error is not None and storage_failure.is_full(ended.error.message):
        full = storage_failure.sentence(experiment.uri, typed_name(experiment.uri), ended.error.message)
        experiment.refuse(full, StorageFailed.exit_code)
    record.update_attempt(replace(ended, run_s=run_s, ended_utc=ended.ended_utc or utc_now()))


def _fit(record: TrialRecord, attempt: int, config: TrainConfig, task: TrialTask, train: TrainFunction | None) -> None:
    import ray.train

    from sweeps.engine.ranks.process_group import ProcessGroup

    on_gpu = device_of(config, task.num_gpus) == "cuda"
    leg = {launch_processes.LEG_VARIABLE: launch_processes.leg_mark(task.experiment, task.trial)}
    values: dict[str, Any] = asdict(RankTask(task.experiment, task.trial, attempt, task.owner_number))
    trainer = lean_trainer(
        run_rank,
        ProcessGroup("cpu:gloo,cuda:nccl" if on_gpu else "gloo"),
        ray.train.ScalingConfig(
            num_workers=task.num_workers,
            use_gpu=on_gpu,
            resources_per_worker=tagged({"CPU": 1, **({"GPU": 1} if on_gpu else {})}, task.tag),
            placement_strategy=task.placement,
            label_selector=None if task.node_id is None else {NODE_LABEL: task.node_id},
        ),
        train_loop_config=values if train is None else {**values, "train": train},
        run_config=ray.train.RunConfig(
            name=run_name(attempt),
            storage_path=record.train_uri,
            failure_config=ray.train.FailureConfig(
                max_failures=0, controller_failure_limit=2, max_preemption_failures=0
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=KEEP_CHECKPOINTS),
            worker_runtime_env={"env_vars": leg | ({} if on_gpu else cpu_environment(task.num_threads))},
        ),
    )
    trainer.fit()


def cpu_environment(num_threads: int) -> dict[str, str]:
    """For workers without a GPU: their share of the cores, and a malloc that keeps what large tensors give back.

    The tensors of a step come and go at every step; returned to the kernel each time, a step takes 2-3 times as long.
    Training is not on a worker's main thread: another thread's arena gives back what is larger than 64 MiB, so there is
    one arena for all.
    """
    return {
        "OMP_NUM_THREADS": str(num_threads),
        "MKL_NUM_THREADS": str(num_threads),
        "MALLOC_MMAP_THRESHOLD_": "4000000000",
        "MALLOC_TRIM_THRESHOLD_": "4000000000",
        "MALLOC_ARENA_MAX": "1",
    }


def _judged(stored: AttemptRecord, error: Exception | None) -> AttemptRecord:
    """The record of an attempt that did not say itself how it ended."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    end = how_it_ended(stored.error.type if stored.error else None, list(failures.values()))
    kept = stored.error if end == "failed" or (stored.error and stored.error.type in _CONTINUED_ERRORS) else None
    return replace(stored, end=end, error=kept or _outer_error(error, failures), ended_utc=utc_now())


def how_it_ended(stored_error: str | None, failures: Sequence[Exception]) -> AttemptEnd:
    """Failed only where every rank that ended was ended by its own exception.

    Where one was lost (killed, its node gone), the exceptions of the others follow from that, and the attempt was
    interrupted. So it was when storage failed or a newer attempt took over, which a rank may not have been able to
    store, and when Ray itself gave up.
    """
    if stored_error in _CONTINUED_ERRORS or any(isinstance(failure, _BLAMELESS) for failure in failures):
        return "interrupted"
    return "failed" if failures and not any(is_from_ray(failure) for failure in failures) else "interrupted"


def _outer_error(error: Exception | None, failures: Mapping[int, Exception]) -> AttemptError | None:
    """What the outside saw: that storage failed, or of a lost rank Ray's description of its death."""
    for failure in failures.values():
        if isinstance(failure, _BLAMELESS):
            return AttemptError(type=type(failure).__name__, message=str(failure), traceback=str(error))
    for rank, failure in failures.items():
        if is_from_ray(failure):
            message = f"rank {rank} was lost: {_how_it_went(failure)}"
            return AttemptError(type="WorkerLost", message=message, traceback=str(failure))
    if error is None:
        return None
    return AttemptError(type=type(error).__name__, message=_first_line(error), traceback=str(error))


def _how_it_went(failure: Exception) -> str:
    from ray.exceptions import ActorDiedError

    inner = below_health_check(failure)
    return "its process died" if isinstance(inner, ActorDiedError) else f"{type(inner).__name__}: {_first_line(inner)}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def write_result(record: TrialRecord, trial: Trial, keep: Keep) -> None:
    """All from the stored rows, so it is the same whenever it is written. Raises CorruptData without any.

    Checkpoints that are not kept go first: a kill before the result is there repeats this, one after it leaves nothing.
    """
    record.compact()
    rows = record.rows()
    if not rows:
        raise CorruptData(f"{trial.name} is completed, but its rows are not there; put them back, or drop the leg")
    if keep != "all":
        keep_newest(record.train_store, num_kept(trial.config, keep))
    evaluated = [row.val_bpb for row in rows if row.val_bpb is not None and math.isfinite(row.val_bpb)]
    record.write_result(
        TrialResult(
            trial=trial.name,
            leg=trial.leg.name,
            block=trial.block,
            status="completed",
            last_step=rows[-1].step,
            num_attempts=len(record.attempts()),
            peak_mib=max(row.peak_mib for row in rows),
            total_time_min=rows[-1].train_time_s / 60,
            min_val_bpb=min(evaluated) if evaluated else None,
            ended_utc=utc_now(),
        )
    )
