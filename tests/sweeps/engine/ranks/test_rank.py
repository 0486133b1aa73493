"""One rank's hooks over real storage, with a group of one instead of Ray's."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat.stats import StartFacts, TextFacts, TrainResult
from sweeps.engine.processes import storage_retry
from sweeps.engine.processes.storage_retry import StorageLost
from sweeps.engine.ranks import rank as rank_module
from sweeps.engine.ranks import waiting_rows
from sweeps.engine.ranks.rank import Rank, RankTask, Superseded
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.spec.errors import DriftError
from tests.helpers.ranks import TRIAL, OneRank, State, open_rank, stored_steps
from tests.helpers.rows import start_facts, stats_of


def save(rank: Rank, step: int) -> None:
    """The three moments of a save, as the trainer calls them."""
    hooks = rank.hooks()
    hooks.before_save(step)
    hooks.save(State(step))
    hooks.saved(step)


@pytest.fixture
def experiment(make_experiment: Callable[..., Experiment]) -> Experiment:
    return make_experiment()


RESULT = TrainResult(last_step=39, completed=True, peak_mib=1.0, total_time_min=0.5, min_val_bpb=None, num_skipped=0)


def test_rows_wait_in_memory_and_are_stored_when_five_seconds_have_passed(
    experiment: Experiment, make_row: Callable[..., StepRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = open_rank(experiment)[0]
    rank.hooks().on_step(stats_of(make_row(0)))
    rank.look()
    assert stored_steps(experiment) == []
    monkeypatch.setattr(waiting_rows, "ROW_PART_S", 0.0)
    rank.hooks().on_step(stats_of(make_row(1)))
    rank.look()
    assert stored_steps(experiment) == [0, 1]


@pytest.mark.parametrize("is_first", [True, False])
def test_every_rank_refuses_a_text_that_an_earlier_attempt_did_not_read(experiment: Experiment, is_first: bool) -> None:
    text = TextFacts(text_digest="a" * 64, tokenizer_digest="b" * 64, num_text_shards=3)
    record = experiment.trial("bf16-b1")
    earlier = record.start_attempt(num_workers=1)
    hooks = open_rank(experiment, is_first)[0].hooks()
    hooks.on_text(text)  # nothing is known to compare it with
    record.update_attempt(dataclasses.replace(earlier, facts=vars(text)))
    hooks.on_text(text)
    with pytest.raises(DriftError, match="changed since attempt 0 of bf16-b1"):
        hooks.on_text(dataclasses.replace(text, text_digest="c" * 64))


def test_rows_up_to_a_checkpoint_are_stored_before_it_exists(
    experiment: Experiment, make_row: Callable[..., StepRow]
) -> None:
    rank, group = open_rank(experiment)
    seen: list[list[int]] = []
    group.on_write = lambda: seen.append(stored_steps(experiment))
    for number in range(3):
        rank.hooks().on_step(stats_of(make_row(number)))
    save(rank, 3)
    assert seen == [[0, 1, 2]]
    assert (group.train / "a000/step_000003/state").read_text() == "3"


def test_a_checkpoint_ahead_of_its_rows_is_a_bug_that_is_named(
    experiment: Experiment, make_row: Callable[..., StepRow]
) -> None:
    rank, _ = open_rank(experiment)
    rank.hooks().on_step(stats_of(make_row(0)))
    with pytest.raises(RuntimeError, match="checkpoint at step 2, but the last row is of step 0"):
        save(rank, 2)


def test_a_checkpoint_is_reported_when_it_is_complete(experiment: Experiment, make_row: Callable[..., StepRow]) -> None:
    rank, group = open_rank(experiment)
    rank.hooks().on_step(stats_of(make_row(0)))
    rank.hooks().before_save(1)
    rank.hooks().save(State(1))
    assert group.reported == []
    rank.hooks().saved(1)
    assert group.reported == [1]


def test_the_next_attempt_sees_the_checkpoints_of_the_one_before_newest_first(
    experiment: Experiment, make_row: Callable[..., StepRow]
) -> None:
    first, _ = open_rank(experiment)
    for number in range(2):
        first.hooks().on_step(stats_of(make_row(number)))
        save(first, number + 1)
    second, _ = open_rank(experiment)
    assert [folder.name for folder in second.hooks().checkpoints()] == ["step_000002", "step_000001"]


def test_a_superseded_attempt_stores_neither_checkpoint_nor_end(
    experiment: Experiment, make_row: Callable[..., StepRow], facts: StartFacts
) -> None:
    orphan, group = open_rank(experiment)
    orphan.hooks().on_step(stats_of(make_row(0)))
    open_rank(experiment)
    with pytest.raises(Superseded, match="attempt 0 of static-b1 is superseded by attempt 1"):
        save(orphan, 1)
    orphan.look()
    with pytest.raises(Superseded):
        orphan.hooks().should_stop()
    with pytest.raises(Superseded):
        orphan.hooks().on_start(facts)
    with pytest.raises(Superseded):
        orphan.finish(RESULT)
    assert not group.train.exists()
    assert experiment.trial(TRIAL).attempts()[0].end is None


def test_nothing_is_stored_once_the_result_is_there(
    experiment: Experiment, make_row: Callable[..., StepRow], complete: Callable[..., None]
) -> None:
    rank, _ = open_rank(experiment)
    complete(experiment, TRIAL)
    rank.hooks().on_step(stats_of(make_row(0)))
    with pytest.raises(Superseded):
        rank.finish(RESULT)
    assert len(stored_steps(experiment)) == 40


def test_the_attempt_ends_after_its_rows_are_stored(
    experiment: Experiment, make_row: Callable[..., StepRow], facts: StartFacts
) -> None:
    rank, _ = open_rank(experiment)
    rank.hooks().on_start(facts)
    rank.hooks().on_step(stats_of(make_row(0)))
    rank.finish(RESULT)
    attempt = experiment.trial(TRIAL).attempts()[0]
    assert (attempt.end, attempt.first_step) == ("completed", 0)
    assert attempt.facts is not None
    assert attempt.facts["device_name"] == "toy"
    assert stored_steps(experiment) == [0]


def test_a_run_that_was_asked_to_stop_ends_as_stopped(experiment: Experiment) -> None:
    rank, _ = open_rank(experiment)
    rank.finish(dataclasses.replace(RESULT, completed=False))
    assert experiment.trial(TRIAL).attempts()[0].end == "stopped"


def test_a_stop_request_is_heard_at_the_threads_next_look(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_module, "STOP_POLL_S", 0.05)
    rank, _ = open_rank(experiment)
    rank.look()
    assert not rank.hooks().should_stop()
    with rank.running():
        experiment.request_stop("test")
        wait_until(rank.hooks().should_stop)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def limit_to(experiment: Experiment, rank: Rank, seconds: float) -> None:
    for each in (experiment, rank.experiment):
        vars(each)["plan"] = dataclasses.replace(each.plan, leg_timeout_s=seconds)


def test_a_leg_whose_time_is_up_stops_after_its_step_and_counts_as_failed(experiment: Experiment) -> None:
    rank, _ = open_rank(experiment)
    limit_to(experiment, rank, 1200)
    experiment.trial(TRIAL).end_in_time(0)
    rank.look()
    assert rank.hooks().should_stop()
    rank.finish(dataclasses.replace(RESULT, completed=False))
    attempt = experiment.trial(TRIAL).attempt(0)
    assert attempt.error is not None
    assert (attempt.end, attempt.error.type) == ("failed", "LegTimeout")
    step = RESULT.last_step
    assert attempt.error.message == (
        f"the leg did not end within 20 min (leg_timeout) and was stopped after step {step} with a checkpoint; "
        f"a retry resumes it"
    )


def test_the_last_step_and_a_persons_request_come_before_the_time_limit(experiment: Experiment) -> None:
    rank, _ = open_rank(experiment)
    limit_to(experiment, rank, 1200)
    experiment.trial(TRIAL).end_in_time(0)
    rank.finish(RESULT)
    assert experiment.trial(TRIAL).attempt(0).end == "completed"
    second, _ = open_rank(experiment)
    limit_to(experiment, second, 1200)
    experiment.trial(TRIAL).end_in_time(1)
    experiment.request_stop("test")
    second.finish(dataclasses.replace(RESULT, completed=False))
    assert (experiment.trial(TRIAL).attempt(1).end, experiment.trial(TRIAL).attempt(1).error) == ("stopped", None)


def test_the_first_ranks_error_is_kept_and_a_later_one_is_not(experiment: Experiment) -> None:
    rank, group = open_rank(experiment)
    other = Rank(RankTask(experiment.uri, TRIAL, 0), OneRank(group.train, 0, is_first=False))
    assert other.store_error(ValueError("the cause"))
    assert not rank.store_error(RuntimeError("connection closed by peer"))
    error = experiment.trial(TRIAL).attempts()[0].error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "the cause")


def test_refused_rows_wait_for_storage_but_not_past_a_checkpoint(
    experiment: Experiment, make_row: Callable[..., StepRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    rank, _ = open_rank(experiment)
    monkeypatch.setattr(storage_retry, "RETRY_FOR_S", 0.0)
    monkeypatch.setattr(storage_retry, "PAUSE_S", 0.0)
    monkeypatch.setattr(waiting_rows, "ROW_PART_S", 0.0)
    working = type(experiment.store).create

    def refuse(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(experiment.store), "create", refuse)
    rank.hooks().on_step(stats_of(make_row(0)))
    with pytest.raises(StorageLost, match="No space left on device"):
        save(rank, 1)
    monkeypatch.setattr(type(experiment.store), "create", working)
    rank.hooks().on_step(stats_of(make_row(1)))
    rank.look()
    assert stored_steps(experiment) == [0, 1]


@pytest.fixture
def outage(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From the call on, storage fails this many times whatever it is asked; each costs a hundredth of a second."""
    monkeypatch.setattr(storage_retry, "PAUSE_S", 0.01)
    left = [0]

    def refusing(working: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            left[0] -= 1
            if left[0] >= 0:
                raise OSError(5, "Input/output error")
            return working(*args)

        return call

    for name in ("read", "write", "create", "list", "delete_tree"):
        monkeypatch.setattr(type(experiment.store), name, refusing(getattr(type(experiment.store), name)))

    def begin(num_refusals: int) -> None:
        left[0] = num_refusals

    return begin


def test_a_leg_survives_an_outage_of_storage_at_any_moment(
    experiment: Experiment, make_row: Callable[..., StepRow], facts: StartFacts, outage: Callable[[int], None]
) -> None:
    rank, group = open_rank(experiment)
    hooks = rank.hooks()
    outage(10)  # with pauses of two seconds it would last twenty
    assert list(hooks.checkpoints()) == []
    outage(10)
    hooks.on_start(facts)
    outage(10)
    hooks.on_step(stats_of(make_row(0)))
    save(rank, 1)
    outage(10)
    rank.finish(RESULT)
    attempt = experiment.trial(TRIAL).attempt(0)
    assert (attempt.end, attempt.first_step, stored_steps(experiment)) == ("completed", 0, [0])
    assert group.reported == [1]


def test_storage_that_cannot_be_asked_for_a_stop_asks_for_none_and_is_told_once(
    experiment: Experiment,
    outage: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rank, _ = open_rank(experiment)
    experiment.request_stop("test")
    outage(2)
    seen: list[bool] = []
    for _ in range(3):
        rank.look()
        seen.append(rank.hooks().should_stop())
    assert seen == [False, False, True]
    assert capsys.readouterr().out.count("requests to stop cannot be read, training continues") == 1


def test_a_folder_that_vanished_is_an_outage_too(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, facts: StartFacts
) -> None:
    rank, _ = open_rank(experiment)
    monkeypatch.setattr(storage_retry, "RETRY_FOR_S", 0.0)
    Path(experiment.uri).rename(f"{experiment.uri}-away")
    rank.look()
    assert not rank.hooks().should_stop()
    with pytest.raises(StorageLost, match=f"the start of {TRIAL} cannot be stored: .*no attempt is in storage"):
        rank.hooks().on_start(facts)
    assert rank.store_error(ValueError("the cause"))


def test_a_checkpoint_that_cannot_be_written_is_storages_fault(
    experiment: Experiment, make_row: Callable[..., StepRow]
) -> None:
    rank, group = open_rank(experiment)

    def refuse() -> None:
        raise OSError(28, "No space left on device")

    group.on_write = refuse
    rank.hooks().on_step(stats_of(make_row(0)))
    with pytest.raises(StorageLost, match=r"checkpoint at step 1 cannot be stored.*No space left"):
        save(rank, 1)


def test_old_checkpoints_go_when_an_attempt_has_started_from_a_newer_one(
    experiment: Experiment, make_row: Callable[..., StepRow], facts: StartFacts
) -> None:
    first, group = open_rank(experiment)
    for number in range(4):
        first.hooks().on_step(stats_of(make_row(number)))
        save(first, number + 1)
    second, _ = open_rank(experiment)
    second.hooks().on_start(dataclasses.replace(facts, first_step=4))
    assert sorted(folder.name for folder in (group.train / "a000").iterdir()) == ["step_000003", "step_000004"]


def test_the_config_is_the_manifests(experiment: Experiment) -> None:
    rank, _ = open_rank(experiment)
    assert rank.config() == experiment.plan.trials[0].config


@pytest.fixture
def facts() -> StartFacts:
    return start_facts()


def test_kernels_and_compile_cache_of_an_attempt_are_those_told_after_its_first_step(
    experiment: Experiment, facts: StartFacts
) -> None:
    rank, _ = open_rank(experiment)
    rank.hooks().on_start(facts)
    rank.hooks().on_start(dataclasses.replace(facts, compile_cache="warm", backends={"attention": "flash"}))
    stored = experiment.trial(TRIAL).attempts()[0].facts
    assert stored is not None
    assert (stored["compile_cache"], stored["backends"]) == ("warm", {"attention": "flash"})


def test_the_times_of_the_first_and_the_last_step_are_kept(
    experiment: Experiment, make_row: Callable[..., StepRow]
) -> None:
    rank, _ = open_rank(experiment)
    for step in range(2):
        rank.hooks().on_step(stats_of(make_row(step)))
        rank.look()
    first = experiment.trial(TRIAL).attempts()[0].first_step_utc
    rank.finish(RESULT)
    attempt = experiment.trial(TRIAL).attempts()[0]
    assert attempt.last_step_utc is not None
    assert attempt.ended_utc is not None
    assert first == attempt.first_step_utc
    assert first is not None
    assert first <= attempt.last_step_utc <= attempt.ended_utc


def test_an_error_for_want_of_memory_is_stored_with_advice(experiment: Experiment) -> None:
    rank, _ = open_rank(experiment)
    assert rank.store_error(MemoryError())
    error = experiment.trial(TRIAL).attempts()[0].error
    assert error is not None
    assert error.type == "MemoryError"
    assert error.message.startswith("out of memory at a peak of ")
