"""Checkpoints over several attempts: found newest first, pruned only if nothing needs them."""

from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.sizes import checkpoint_bytes
from nanochat.stats import CHECKPOINT_INDEX
from sweeps.records.checkpoints import (
    KEEP_CHOICES,
    Keep,
    StoredCheckpoint,
    bytes_on_disk,
    keep_of,
    run_name,
    stored_checkpoints,
    superseded,
)
from sweeps.records.store import Store
from sweeps.spec.find import load_sweep
from sweeps.spec.parts import Parallel
from sweeps.spec.plan import make_plan


def make(root: Path, *names: str) -> Store:
    for name in names:
        (root / name).mkdir(parents=True)
    return Store(str(root))


def test_checkpoints_of_all_attempts_are_listed_newest_first(tmp_path: Path) -> None:
    store = make(tmp_path, "a000/step_000010", "a000/step_000020", "a001/step_000030", "a001/step_000020")
    assert [c.name for c in stored_checkpoints(store)] == [
        "a001/step_000030",
        "a001/step_000020",
        "a000/step_000020",
        "a000/step_000010",
    ]


def test_what_is_no_checkpoint_is_not_listed(tmp_path: Path) -> None:
    store = make(tmp_path, "a000/other", "b000/step_000010", "a000/step_x", "a000/.step_000010")
    (tmp_path / "a000" / "checkpoint_manager_snapshot.json").write_text("{}")
    assert stored_checkpoints(store) == []


@pytest.mark.parametrize(
    "name", ["a0000/step_000010", "a000/step_0000010", "a00000000000000000000/step_000010", "a000"]
)
def test_another_spelling_of_a_number_names_no_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / CHECKPOINT_INDEX).write_text("{}")
    assert stored_checkpoints(Store(str(tmp_path))) == []


def test_a_trial_that_never_ran_has_none(tmp_path: Path) -> None:
    assert stored_checkpoints(Store(str(tmp_path / "nothing"))) == []


def test_the_names_sort_and_survive_many_attempts_and_steps(tmp_path: Path) -> None:
    store = make(tmp_path, f"{run_name(1000)}/step_1000000", "a999/step_000010")
    assert stored_checkpoints(store) == [StoredCheckpoint(1_000_000, 1000), StoredCheckpoint(10, 999)]


def found(*pairs: tuple[int, int]) -> list[StoredCheckpoint]:
    return sorted((StoredCheckpoint(step, attempt) for step, attempt in pairs), reverse=True)


def test_the_one_started_from_and_the_one_before_are_kept() -> None:
    stored = found((10, 0), (20, 0), (30, 1))
    assert superseded(stored, attempt=2, first_step=30, keep=2) == found((10, 0))


def test_half_written_ones_go_and_take_no_good_ones_place(tmp_path: Path) -> None:
    good, cut_off = (
        ("a000/step_000070", "a000/step_000140", "a001/step_000210"),
        ("a000/step_000210", "a001/step_000280"),
    )
    store = make(tmp_path, *good, *cut_off)
    for name in good:
        store.write(f"{name}/{CHECKPOINT_INDEX}", b"{}")
    useless = superseded(stored_checkpoints(store), attempt=2, first_step=210, keep=2)
    assert sorted(c.name for c in useless) == ["a000/step_000070", "a000/step_000210", "a001/step_000280"]


def test_own_checkpoints_are_left_to_ray() -> None:
    stored = found((10, 0), (20, 1), (30, 1), (40, 1))
    assert superseded(stored, attempt=1, first_step=10, keep=1) == []


def test_refused_checkpoints_newer_than_the_start_are_not_deleted() -> None:
    stored = found((10, 0), (20, 0), (30, 0))
    assert superseded(stored, attempt=1, first_step=20, keep=1) == found((10, 0))
    assert superseded(stored, attempt=1, first_step=0, keep=1) == []


def test_the_disk_holds_three_of_the_trial_that_trains_and_what_is_kept_of_all_others() -> None:
    plan = make_plan(load_sweep("capacity"), 2)
    size, num_trials = checkpoint_bytes(plan.trials[0].config), len(plan.trials)
    assert all(checkpoint_bytes(trial.config) == size for trial in plan.trials)
    kept: dict[Keep, int] = {"none": 0, "last": 1, "all": 2}
    assert {keep: bytes_on_disk(plan, keep) for keep in KEEP_CHOICES} == {
        keep: ((num_trials - 1) * number + 3) * size for keep, number in kept.items()
    }


@pytest.mark.parametrize(("parallel", "at_a_time"), [(None, 1), (1, 1), (2, 2), (9, 4), ("auto", 4)])
def test_blocks_side_by_side_train_one_trial_each(parallel: Parallel, at_a_time: int) -> None:
    plan = replace(make_plan(load_sweep("capacity"), 4), parallel=parallel)
    size, num_trials = checkpoint_bytes(plan.trials[0].config), len(plan.trials)
    assert bytes_on_disk(plan, "none") == at_a_time * 3 * size
    assert bytes_on_disk(plan, "last") == ((num_trials - at_a_time) + at_a_time * 3) * size


def test_experiments_that_do_not_say_what_they_keep_keep_all() -> None:
    assert [keep_of(settings) for settings in ({}, {"keep_checkpoints": "none"}, {"keep_checkpoints": 3})] == [
        "all",
        "none",
        "all",
    ]
