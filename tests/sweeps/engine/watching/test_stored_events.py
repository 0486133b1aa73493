"""What storage tells a watcher, as the lines that a person reads."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.engine.watching.stored_events import StoredEvents
from sweeps.records.documents import AttemptEnd, AttemptError
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.records.trial import TrialRecord

FACTS = {"device_name": "toy", "world_size": 2, "first_step": 0, "num_steps": 40}


@pytest.fixture
def experiment(make_experiment: Callable[..., Experiment]) -> Experiment:
    return make_experiment()


def lines(watch: StoredEvents) -> list[str]:
    return [str(event) for event in watch.poll()]


def end(record: TrialRecord, number: int, how: AttemptEnd, error: AttemptError | None = None) -> None:
    record.update_attempt(dataclasses.replace(record.attempts()[number], end=how, error=error))


def test_nothing_new_is_nothing_told(experiment: Experiment, complete: Callable[..., None]) -> None:
    complete(experiment, "static-b1")
    assert lines(StoredEvents(experiment)) == []


def test_a_legs_life_is_told_in_order_and_once(
    experiment: Experiment, make_row: Callable[..., StepRow], complete: Callable[..., None]
) -> None:
    watch, record = StoredEvents(experiment), experiment.trial("static-b1")
    attempt = record.start_attempt(num_workers=2)
    assert lines(watch) == ["[1/4] static-b1: starts"]
    record.update_attempt(dataclasses.replace(attempt, facts=FACTS, first_step=0))
    record.append_rows(0, [make_row(s) for s in range(10)])
    assert lines(watch) == [
        "[1/4] static-b1: trains, 40 steps on 2 ranks of toy",
        "[1/4] static-b1: step 10/40, loss 9.1000, 5,120 tok/s",
    ]
    assert lines(watch) == []
    record.append_rows(0, [make_row(s) for s in range(10, 40)])
    end(record, 0, "completed")
    assert lines(watch) == []
    complete(experiment, "static-b1")
    told = lines(watch)
    assert told[-1] == "[1/4] static-b1: completed, 40 steps, loss 6.1000, 5,120 tok/s"
    assert lines(watch) == []


def test_a_completed_leg_that_runs_again_elsewhere_is_told_again(
    experiment: Experiment, complete: Callable[..., None]
) -> None:
    """Its driver can have begun before anybody looks."""
    watch, record = StoredEvents(experiment), experiment.trial("static-b1")
    complete(experiment, "static-b1")
    assert lines(watch)[-1].startswith("[1/4] static-b1: completed")
    record.begin_again()
    record.start_attempt(num_workers=2, node_id="ab" * 28, node_host="two")
    assert lines(watch) == [], "nobody has said so yet"
    watch.reopen("static-b1", 1)
    assert lines(watch) == ["[1/4] static-b1: starts again (attempt 1) on two/ababab"]
    assert [each.at.trial for each in watch.unready()] == ["static-b1"]


def test_trials_of_blocks_that_are_added_are_watched_too(experiment: Experiment) -> None:
    watch = StoredEvents(experiment)
    experiment.grow(2)
    watch.look_for_more()
    name = experiment.plan.trials[-1].name
    experiment.trial(name).start_attempt(num_workers=2)
    experiment.trial("static-b1").start_attempt(num_workers=2)
    assert lines(watch) == ["[1/8] static-b1: starts", f"[8/8] {name}: starts"]
    assert {each.at.trial for each in watch.unready()} == {"static-b1", name}


def test_a_leg_that_went_on_uncompiled_is_told_once_with_the_reason(experiment: Experiment) -> None:
    watch, record = StoredEvents(experiment), experiment.trial("static-b1")
    attempt = record.start_attempt(num_workers=2)
    record.update_attempt(dataclasses.replace(attempt, facts=FACTS))
    assert lines(watch)[-1] == "[1/4] static-b1: trains, 40 steps on 2 ranks of toy"
    record.update_attempt(dataclasses.replace(attempt, facts={**FACTS, "compile_fallback": "no compiler on rank 1"}))
    assert lines(watch) == ["[1/4] static-b1: could not be compiled, runs uncompiled: no compiler on rank 1"]
    assert lines(watch) == []


def test_a_checkpoint_is_told_when_all_ranks_have_reported_it(experiment: Experiment) -> None:
    watch, record = StoredEvents(experiment), experiment.trial("static-b1")
    record.start_attempt(num_workers=2)
    folder = Path(record.train_uri) / "a000"
    folder.mkdir(parents=True)
    (folder / "step_000010").mkdir()
    assert lines(watch) == ["[1/4] static-b1: starts"]
    snapshot = {"latest_checkpoint_result": {"checkpoint_dir_name": "step_000010"}}
    (folder / "checkpoint_manager_snapshot.json").write_text(json.dumps(snapshot))
    assert lines(watch) == ["[1/4] static-b1: checkpoint at step 10"]
    (folder / "checkpoint_manager_snapshot.json").write_text('{"latest')
    assert lines(watch) == []


def test_an_interruption_and_the_next_attempt_are_told(
    experiment: Experiment, make_row: Callable[..., StepRow]
) -> None:
    watch, record = StoredEvents(experiment), experiment.trial("static-b1")
    record.start_attempt(num_workers=2)
    record.append_rows(0, [make_row(s) for s in range(12)])
    end(record, 0, "interrupted", AttemptError(type="WorkerLost", message="rank 1 was lost", traceback=""))
    second = record.start_attempt(num_workers=2)
    assert lines(watch) == [
        "[1/4] static-b1: starts",
        "[1/4] static-b1: interrupted in attempt 0: rank 1 was lost",
        "[1/4] static-b1: starts again (attempt 1)",
    ]  # steps that only the first attempt has done are no progress of the second
    record.update_attempt(dataclasses.replace(second, facts={**FACTS, "first_step": 10}))
    record.append_rows(1, [make_row(10, attempt=1)])
    assert lines(watch) == [
        "[1/4] static-b1: continues at step 10, 40 steps on 2 ranks of toy",
        "[1/4] static-b1: step 11/40, loss 9.0000, 5,120 tok/s",
    ]


def test_an_attempt_whose_driver_died_is_told_when_the_next_one_starts(experiment: Experiment) -> None:
    watch, record = StoredEvents(experiment), experiment.trial("static-b1")
    record.start_attempt(num_workers=2)
    record.start_attempt(num_workers=2)
    assert lines(watch) == [
        "[1/4] static-b1: starts",
        "[1/4] static-b1: interrupted in attempt 0: its driver was lost",
        "[1/4] static-b1: starts again (attempt 1)",
    ]


def test_a_failure_is_told_with_its_error_and_the_tail_of_its_log(experiment: Experiment) -> None:
    watch, record = StoredEvents(experiment), experiment.trial("static-b1")
    record.start_attempt(num_workers=2)
    assert record.log_path is not None
    record.log_path.write_text("".join(f"line {i}\n" for i in range(100)) + "ValueError: broken\n")
    end(record, 0, "failed", AttemptError(type="ValueError", message="broken", traceback=""))
    text = lines(watch)[-1]
    assert text.startswith("[1/4] static-b1: failed: ValueError: broken\n")
    assert str(record.log_path) in text
    assert text.endswith("  | ValueError: broken")
    assert "line 50" not in text


def test_what_was_there_before_is_not_told_again(experiment: Experiment, make_row: Callable[..., StepRow]) -> None:
    record = experiment.trial("static-b1")
    record.start_attempt(num_workers=2)
    record.append_rows(0, [make_row(0)])
    end(record, 0, "stopped")
    watch = StoredEvents(experiment)
    assert lines(watch) == []
    record.start_attempt(num_workers=2)
    assert lines(watch) == ["[1/4] static-b1: starts again (attempt 1)"]


@pytest.mark.parametrize(
    "name", ["..", "step_x", 3, None, {"a": 1}, "step_" + "9" * 400, "\x1b[2J", "../../step_000010"]
)
def test_a_checkpoint_that_cannot_be_one_is_not_told(experiment: Experiment, name: object) -> None:
    watch, record = StoredEvents(experiment), experiment.trial("static-b1")
    record.start_attempt(num_workers=2)
    stored = json.dumps({"latest_checkpoint_result": {"checkpoint_dir_name": name}})
    file = f"{record.folders.train}/a000/checkpoint_manager_snapshot.json"
    experiment.store.write(file, stored.encode())
    assert lines(watch) == ["[1/4] static-b1: starts"]
    experiment.store.write(file, b"[" * 100_000)
    assert lines(watch) == []


def test_facts_that_lack_some_are_not_told_and_a_result_without_rows_is(
    experiment: Experiment, complete: Callable[..., None]
) -> None:
    watch, record = StoredEvents(experiment), experiment.trial("static-b1")
    complete(experiment, "static-b1")
    record.update_attempt(dataclasses.replace(record.attempts()[0], facts={"device_name": "toy"}))
    for part in Path(experiment.uri, record.folders.rows).iterdir():
        part.unlink()
    assert lines(watch) == [
        "[1/4] static-b1: starts",
        "[1/4] static-b1: completed, 40 steps, loss nan, nan tok/s",
    ]
