"""How the driver judges an attempt's end and makes a result of stored rows. Ray itself: tests/integration."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError

from nanochat.config import with_overrides
from nanochat.stats import CHECKPOINT_INDEX
from sweeps.engine.processes.storage_retry import StorageLost
from sweeps.engine.ranks.rank import Superseded
from sweeps.engine.trials.driver import close_attempt, cpu_environment, how_it_ended, stored_trial, write_result
from sweeps.engine.trials.next_move import StoredTrial
from sweeps.records.checkpoints import KEEP_CHOICES, Keep, stored_checkpoints
from sweeps.records.documents import AttemptError
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow

OWN, LOST = ValueError("mine"), ActorDiedError()


@pytest.mark.parametrize(
    ("stored_error", "failures", "end"),
    [
        ("ValueError", [OWN], "failed"),
        ("ValueError", [OWN, OWN], "failed"),
        ("RuntimeError", [OWN, LOST], "interrupted"),  # one rank was lost: the other's error follows from it
        (None, [LOST], "interrupted"),
        (None, [], "interrupted"),  # Ray gave up before any rank ran
        ("StorageLost", [OWN, OWN], "interrupted"),
        ("Superseded", [OWN], "interrupted"),
        ("DriftError", [OWN, OWN], "interrupted"),  # another text is there now: for a later restore to try again
        ("TextError", [OWN], "interrupted"),
        (None, [StorageLost("refused"), OWN], "interrupted"),  # storage failed the record of it too
        ("RuntimeError", [Superseded("a newer one"), OWN], "interrupted"),  # another rank was first to store
    ],
)
def test_an_attempt_failed_only_if_every_rank_ended_by_its_own_error(
    stored_error: str | None, failures: list[Exception], end: str
) -> None:
    assert how_it_ended(stored_error, failures) == end


def test_the_next_move_sees_a_failure_and_the_wish_to_try_it_again(make_experiment: Callable[..., Experiment]) -> None:
    experiment = make_experiment()
    record = experiment.trial("static-b1")
    assert stored_trial(experiment, record, 0) == StoredTrial(
        has_result=False, stop_requested=False, ends=[], num_earlier=0
    )
    record.update_attempt(dataclasses.replace(record.start_attempt(num_workers=2), end="failed"))
    assert not stored_trial(experiment, record, 1).retry_asked
    record.allow_retry()
    experiment.request_stop("enough")
    assert stored_trial(experiment, record, 1) == StoredTrial(
        has_result=False, stop_requested=True, ends=["failed"], num_earlier=1, retry_asked=True
    )


@pytest.mark.parametrize(("kind", "code"), [("DriftError", 6), ("TextError", 2), ("ValueError", None)])
def test_what_an_attempt_found_of_the_text_refuses_the_launch(
    make_experiment: Callable[..., Experiment], kind: str, code: int | None
) -> None:
    experiment = make_experiment()
    record = experiment.trial("static-b1")
    error = AttemptError(type=kind, message="what was found", traceback="")
    record.update_attempt(dataclasses.replace(record.start_attempt(num_workers=2), error=error))
    close_attempt(experiment, record, 0, None, run_s=12.5)
    assert record.attempt(0).run_s == 12.5
    refusal = experiment.refusal()
    assert (refusal.exit_code, refusal.reason) == (code, "what was found") if refusal else code is None
    assert not record.attempt(0).has_failed_for_good
    experiment.clear_requests()
    assert experiment.refusal() is None


def test_a_result_is_made_of_the_stored_rows(
    make_experiment: Callable[..., Experiment], make_row: Callable[..., StepRow]
) -> None:
    experiment = make_experiment()
    record, trial = experiment.trial("static-b1"), experiment.plan.trials[0]
    for attempt, steps in enumerate((range(30), range(20, 40))):
        record.start_attempt(num_workers=2)
        record.append_rows(attempt, [make_row(s, attempt=attempt, peak_mib=900.0 - s) for s in steps])
    record.append_rows(1, [make_row(38, attempt=1, val_bpb=math.nan, peak_mib=862.0)])  # no number is the lowest
    record.append_rows(1, [make_row(39, attempt=1, val_bpb=0.9, peak_mib=861.0)])
    write_result(record, trial, "none")
    result = record.result()
    assert result is not None
    assert (result.last_step, result.num_attempts, result.status) == (39, 2, "completed")
    assert (result.peak_mib, result.min_val_bpb) == (900.0, 0.9)
    assert result.total_time_min == pytest.approx(29 * 0.1 / 60)
    assert [row.step for row in record.rows()] == list(range(40))


@pytest.mark.parametrize("writes_at_end", [False, True])
@pytest.mark.parametrize("keep", KEEP_CHOICES)
def test_a_completed_trial_keeps_the_checkpoints_that_the_launch_chose(
    make_experiment: Callable[..., Experiment], make_row: Callable[..., StepRow], keep: Keep, *, writes_at_end: bool
) -> None:
    experiment = make_experiment()
    record, trial = experiment.trial("static-b1"), experiment.plan.trials[0]
    trial = dataclasses.replace(trial, config=with_overrides(trial.config, {"run.final_checkpoint": writes_at_end}))
    record.start_attempt(num_workers=2)
    record.append_rows(0, [make_row(0)])
    stored = ["a000/step_000010", "a000/step_000020", "a001/step_000020", "a001/step_000030"]
    for name in stored:
        (Path(record.train_uri) / name).mkdir(parents=True)
        if name != stored[-1]:  # half written
            (Path(record.train_uri) / name / CHECKPOINT_INDEX).write_text("{}")
    (Path(record.train_uri) / "a000" / "checkpoint_manager_snapshot.json").write_text("{}")
    write_result(record, trial, keep)
    left = [each.name for each in stored_checkpoints(record.train_store)]
    newest = ["a001/step_000020"] if keep == "last" or writes_at_end else []
    assert left == (sorted(stored, key=lambda name: name.split("/")[::-1], reverse=True) if keep == "all" else newest)


def test_cpu_workers_share_the_cores_and_keep_their_memory() -> None:
    environment = cpu_environment(3)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["MALLOC_TRIM_THRESHOLD_"] == environment["MALLOC_MMAP_THRESHOLD_"] == "4000000000"
    assert environment["MALLOC_ARENA_MAX"] == "1"
