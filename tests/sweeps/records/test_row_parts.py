"""A reader that looks again and again gets each stored step once, whatever happens to the parts meanwhile."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment
from sweeps.records.row_parts import NewSteps
from sweeps.records.rows import StepRow
from sweeps.records.store import Store
from sweeps.records.trial import TrialRecord

MakeRow = Callable[..., StepRow]


@pytest.fixture
def trial(make_experiment: Callable[..., Experiment]) -> TrialRecord:
    return make_experiment().trial("static-b1")


def test_each_step_is_handed_out_once(trial: TrialRecord, make_row: MakeRow) -> None:
    reader = trial.new_steps()
    assert not reader.read()
    trial.append_rows(0, [make_row(0), make_row(1)])
    trial.append_rows(0, [make_row(2)])
    assert reader.read().ints("step") == [0, 1, 2]
    assert not reader.read()
    trial.append_rows(0, [make_row(3)])
    assert reader.read().ints("step") == [3]


def test_compaction_shows_nothing_twice(trial: TrialRecord, make_row: MakeRow) -> None:
    reader = trial.new_steps()
    for step in range(4):
        trial.append_rows(0, [make_row(step)])
    assert len(reader.read()) == 4
    trial.append_rows(1, [make_row(s, attempt=1) for s in (2, 3)])
    trial.compact()
    found = reader.read()
    assert (found.ints("step"), found.ints("attempt")) == ([2, 3], [1, 1])


def test_what_is_stored_already_may_be_skipped(trial: TrialRecord, make_row: MakeRow) -> None:
    trial.append_rows(0, [make_row(0)])
    reader = trial.new_steps()
    reader.skip()
    trial.append_rows(0, [make_row(1)])
    assert reader.read().ints("step") == [1]


@pytest.fixture
def three_parts(trial: TrialRecord, make_row: MakeRow) -> NewSteps:
    """A reader that has read none of a trial's parts, of one row each."""
    reader = trial.new_steps()
    for step in range(3):
        trial.append_rows(0, [make_row(step)])
    return reader


def test_a_part_that_goes_between_two_looks_is_found_in_the_compacted_one(
    trial: TrialRecord, three_parts: NewSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Store.read

    def compacted_meanwhile(store: Store, rel: str) -> bytes:
        monkeypatch.setattr(Store, "read", read)
        trial.compact()
        return read(store, rel)

    monkeypatch.setattr(Store, "read", compacted_meanwhile)
    assert not three_parts.read()
    assert three_parts.read().ints("step") == [0, 1, 2]


def test_storage_that_fails_at_a_part_costs_no_step_of_those_before(
    three_parts: NewSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Store.read

    def failing_at_the_second(store: Store, rel: str) -> bytes:
        if rel.endswith("p000001.jsonl"):
            raise TimeoutError("storage is slow")
        return read(store, rel)

    monkeypatch.setattr(Store, "read", failing_at_the_second)
    with pytest.raises(TimeoutError):
        three_parts.read()
    monkeypatch.setattr(Store, "read", read)
    assert three_parts.read().ints("step") == [0, 1, 2]


def test_nobody_else_spells_the_paths_of_a_trial() -> None:
    root = Path(__file__).parents[3]
    files = [path for room in ("sweeps", "cli") for path in (root / room).rglob("*.py")]
    spelt = [path.name for path in files if '"trials/' in path.read_text()]
    assert spelt == ["layout.py"]
