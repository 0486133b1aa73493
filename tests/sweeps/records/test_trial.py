"""A trial's attempts, rows and result; what is left after a kill at any moment is still each step once."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.documents import AttemptEnd, AttemptError, AttemptRecord
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import CodeVersion
from sweeps.records.rows import StepRow
from sweeps.records.store import Store
from sweeps.records.trial import TrialRecord, trial_state
from sweeps.spec.errors import CorruptData, UsageError

MakeRow = Callable[..., StepRow]
Make = Callable[..., Experiment]


@pytest.fixture
def trial(make_experiment: Make) -> TrialRecord:
    return make_experiment().trial("static-b1")


def folder(trial: TrialRecord) -> Path:
    """Where the trial lies on this disk."""
    assert trial.log_path is not None
    return trial.log_path.parent


def test_a_file_with_a_number_that_nothing_reaches_stops_the_next_attempt_and_not_the_reading(
    trial: TrialRecord,
) -> None:
    first = trial.start_attempt(num_workers=2)
    huge = dataclasses.replace(first, number=999_999_999)
    trial.update_attempt(huge)
    assert trial.attempts() == [first, huge]
    with pytest.raises(CorruptData, match=r"999999999\.json has a number that nothing here reaches; delete the file"):
        trial.start_attempt(num_workers=2)


def test_an_attempt_that_says_that_it_is_another_one_is_damaged(trial: TrialRecord) -> None:
    trial.start_attempt(num_workers=2)
    file = folder(trial) / "attempts" / "000.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"number": 5}))
    with pytest.raises(CorruptData, match=r"000\.json is damaged: it says that it is attempt 5"):
        trial.attempts()


def test_attempts_are_numbered_from_zero_and_keep_what_is_learnt_of_them(trial: TrialRecord) -> None:
    first = trial.start_attempt(num_workers=2)
    error = AttemptError(type="ValueError", message="no", traceback="Traceback ...")
    trial.update_attempt(dataclasses.replace(first, end="failed", error=error, facts={"device": "cpu"}, first_step=0))
    second = trial.start_attempt(num_workers=1)
    assert (first.number, second.number) == (0, 1)
    stored, last = trial.attempts()
    assert (stored.end, stored.error, stored.facts) == ("failed", error, {"device": "cpu"})
    assert last == second


def test_an_attempt_says_which_code_ran_it_and_older_ones_say_nothing(trial: TrialRecord) -> None:
    code = CodeVersion(git_commit="c0ffee", git_diff_digest="d1ff", versions={"torch": "2.13.0"})
    trial.start_attempt(num_workers=2, code=code)
    path = folder(trial) / "attempts" / "000.json"
    (stored,) = trial.attempts()
    assert (stored.git_commit, stored.git_diff_digest, stored.versions) == ("c0ffee", "d1ff", {"torch": "2.13.0"})
    older = json.loads(path.read_text())
    del older["git_diff_digest"], older["versions"]
    path.write_text(json.dumps(older))
    (read,) = trial.attempts()
    assert (read.git_diff_digest, read.versions) == (None, None)


def test_a_failure_is_final_until_a_retry_is_allowed_and_stays_visible(trial: TrialRecord) -> None:
    trial.allow_retry()  # nothing has been tried yet
    assert trial.attempts() == []
    error = AttemptError(type="ValueError", message="no", traceback="Traceback ...")
    trial.update_attempt(dataclasses.replace(trial.start_attempt(num_workers=2), end="failed", error=error))
    assert trial.state() == "failed"
    trial.allow_retry()
    (failed,) = trial.attempts()
    assert (failed.end, failed.error, trial.state()) == ("failed", error, "interrupted")
    assert failed.retry_utc is not None
    trial.allow_retry()
    assert trial.attempts() == [failed]  # the second permission changes nothing
    trial.update_attempt(dataclasses.replace(trial.start_attempt(num_workers=2), end="failed", error=error))
    assert trial.state() == "failed"


def test_parts_get_the_next_number_even_from_a_new_process(make_experiment: Make, make_row: MakeRow) -> None:
    experiment = make_experiment()
    one, other = experiment.trial("static-b1"), Experiment.open(experiment.uri).trial("static-b1")
    one.append_rows(0, [make_row(0)])
    one.append_rows(0, [])
    one.append_rows(0, [make_row(1)])
    other.append_rows(0, [make_row(2)])
    other.append_rows(1, [make_row(2, attempt=1)])
    names = sorted(p.name for p in (folder(one) / "rows").iterdir())
    assert names == ["a000-p000000.jsonl", "a000-p000001.jsonl", "a000-p000002.jsonl", "a001-p000000.jsonl"]
    assert [(r.step, r.attempt) for r in one.rows()] == [(0, 0), (1, 0), (2, 1)]


def test_a_part_whose_storing_was_confirmed_to_nobody_does_not_refuse_the_next_try(
    make_experiment: Make, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment()
    trial, create = experiment.trial("static-b1"), type(experiment.store).create

    def stored_but_refused(store: Store, rel: str, data: bytes) -> None:
        create(store, rel, data)
        raise OSError(110, "Connection timed out")

    monkeypatch.setattr(Store, "create", stored_but_refused)
    with pytest.raises(OSError, match="timed out"):
        trial.append_rows(0, [make_row(0)])
    monkeypatch.setattr(Store, "create", create)
    trial.append_rows(0, [make_row(0), make_row(1)])
    assert [row.step for row in trial.rows()] == [0, 1]


def test_a_restart_at_step_10_supersedes_what_it_repeats(trial: TrialRecord, make_row: MakeRow) -> None:
    trial.append_rows(0, [make_row(s, attempt=0) for s in range(14)])
    trial.append_rows(1, [make_row(s, attempt=1) for s in range(10, 20)])
    stored = trial.steps()
    assert stored.steps.ints("attempt") == [0] * 10 + [1] * 10
    assert stored.spans == {0: (0, 13), 1: (10, 19)}


def test_compaction_keeps_every_row_in_one_part(trial: TrialRecord, make_row: MakeRow) -> None:
    for step in range(14):
        trial.append_rows(0, [make_row(step, attempt=0)])
    trial.append_rows(1, [make_row(s, attempt=1) for s in range(10, 20)])
    before, spans = trial.rows(), trial.steps().spans
    trial.compact()
    assert [p.name for p in (folder(trial) / "rows").iterdir()] == ["compacted-000.jsonl"]
    assert (trial.rows(), trial.steps().spans) == (before, spans)
    trial.compact()
    assert (trial.rows(), trial.steps().spans) == (before, spans)


@pytest.mark.parametrize("num_deleted", range(4))
def test_a_kill_during_compaction_neither_loses_nor_doubles_a_row(
    trial: TrialRecord, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch, num_deleted: int
) -> None:
    for part in range(4):
        trial.append_rows(0, [make_row(s) for s in range(part * 5, part * 5 + 5)])
    before = trial.rows()
    delete, done = Store.delete, list[str]()

    def killed_after(store: Store, rel: str) -> None:
        if len(done) == num_deleted:
            raise KeyboardInterrupt
        done.append(rel)
        delete(store, rel)

    monkeypatch.setattr(Store, "delete", killed_after)
    with pytest.raises(KeyboardInterrupt):
        trial.compact()
    monkeypatch.undo()
    assert trial.rows() == before
    trial.compact()
    assert trial.rows() == before
    assert len(list((folder(trial) / "rows").iterdir())) == 1


@pytest.mark.parametrize(("numerator", "rows_of_part"), [(0, 0), (1, 0), (3, 1), (4, 1)])
def test_a_torn_part_is_named_gives_its_whole_rows_and_survives_compaction(
    trial: TrialRecord, make_row: MakeRow, numerator: int, rows_of_part: int
) -> None:
    trial.append_rows(0, [make_row(s) for s in range(2)])
    trial.append_rows(0, [make_row(s) for s in range(2, 4)])
    part = folder(trial) / "rows" / "a000-p000001.jsonl"
    two_rows = part.read_bytes()
    part.write_bytes(two_rows[: (len(two_rows) - 1) * numerator // 4])  # a quarter is half a row
    for _ in range(2):
        stored = trial.steps()
        assert stored.steps.ints("step") == [0, 1, 2][: 2 + rows_of_part]
        assert stored.torn == ("trials/static-b1/rows/a000-p000001.jsonl",)
        trial.compact()


def test_the_config_is_stored_with_its_digest(make_experiment: Make) -> None:
    experiment = make_experiment()
    trial = experiment.trial("static-b1")
    assert trial.stored_digest() is None
    trial.write_config(experiment.plan.trials[0].config)
    assert trial.stored_digest() is not None
    (folder(trial) / "trial.json").write_text("{")
    with pytest.raises(CorruptData, match=r"trial\.json is damaged"):
        trial.stored_digest()


def attempt(end: AttemptEnd | None) -> AttemptRecord:
    return AttemptRecord(number=0, host="h", pid=1, started_utc="2026-01-01T00:00:00Z", num_workers=1, end=end)


@pytest.mark.parametrize(
    ("end", "owner_lives", "state"),
    [
        (None, True, "running"),
        (None, False, "interrupted"),
        ("stopped", True, "interrupted"),
        ("interrupted", True, "interrupted"),
        ("completed", False, "interrupted"),  # the result was not written: restore does it
        ("failed", True, "failed"),
        ("failed", False, "failed"),
    ],
)
def test_without_a_result_the_last_attempt_decides_the_state(
    end: AttemptEnd | None, owner_lives: bool, state: str
) -> None:
    assert trial_state(None, [attempt("failed"), attempt(end)], lambda: owner_lives) == state


def test_a_trial_without_attempts_is_pending_and_one_with_a_result_completed(
    make_experiment: Make, complete: Callable[..., None]
) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1")
    assert experiment.trial("static-b1").state() == "completed"
    assert experiment.trial("bf16-b1").state() == "pending"


def test_a_name_that_is_no_trial_is_refused(make_experiment: Make) -> None:
    with pytest.raises(UsageError, match="has no trial 'other'"):
        make_experiment().trial("other")


def test_attempts_are_in_the_order_of_their_numbers_also_beyond_three_digits(trial: TrialRecord) -> None:
    trial.start_attempt(num_workers=1)
    first = (folder(trial) / "attempts" / "000.json").read_text()
    for number in (998, 999, 1000):
        text = first.replace('"number": 0', f'"number": {number}')
        (folder(trial) / "attempts" / f"{number}.json").write_text(text)
    assert [attempt.number for attempt in trial.attempts()] == [0, 998, 999, 1000]
    assert trial.start_attempt(num_workers=1).number == 1001


def test_files_that_others_leave_next_to_ours_are_not_ours(make_experiment: Make, make_row: MakeRow) -> None:
    experiment = make_experiment()
    trial = experiment.trial("static-b1")
    trial.start_attempt(num_workers=1)
    trial.append_rows(0, [make_row(0)])
    for name in ("attempts/000 (copy).json", "attempts/latest.json", "attempts/Thumbs.db", "rows/a000-p000000 2.jsonl"):
        (folder(trial) / name).write_text("")
    (folder(trial) / "rows" / "compacted-old.jsonl").write_text("")
    assert [attempt.number for attempt in trial.attempts()] == [0]
    assert trial.start_attempt(num_workers=1).number == 1
    again = experiment.trial("static-b1")
    again.append_rows(0, [make_row(1)])
    again.compact()
    assert [row.step for row in again.rows()] == [0, 1]
