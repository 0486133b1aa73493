"""Whatever is killed before whichever change of a file, storage is sound and holds everything that was acknowledged.

Checkpoints, rows, documents and locks, each killed at every place; and planted bugs, which the same checks must catch.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoints import folders
from nanochat.checkpoints import format as checkpoint
from nanochat.checkpoints.folders import newest_first, save
from nanochat.checkpoints.saving import Saver
from nanochat.stats import Checkpoint, Hooks
from sweeps.records import local_disk
from sweeps.records.documents import Manifest, utc_now
from sweeps.records.experiment import Experiment
from sweeps.records.lock import Lock, current_owner
from sweeps.records.owner import Owner
from sweeps.records.store import Store
from sweeps.records.trial import TrialRecord
from tests.helpers.kill_points import Say, kill_everywhere
from tests.helpers.rows import row, trial_result
from tests.helpers.train_states import ALONE, train_state

pytestmark = pytest.mark.integration

ID = "20260101_120000_toy"


# Checkpoints


def begin(root: Path) -> None:
    """Two checkpoints, of which the newer one will be published again."""
    checkpoint.silence_notice()
    torch.set_num_threads(1)
    for number, step in enumerate((4, 6)):
        save(root, train_state(step, number), keep=2)


def save_again_and_on(root: Path, say: Say) -> None:
    for number, step in enumerate((6, 8), start=2):
        save(root, train_state(step, number), keep=2)
        say(f"{number}")


def save_on_a_writer_thread(root: Path, say: Say) -> None:
    def write(it: Checkpoint) -> None:
        save(root, it, keep=2)

    with Saver(Hooks(save=write), lambda: train_state(6, 2), ALONE, beside_training=True) as saver:
        saver.save(last=False)
        saver.settle()
        say("2")


def check_checkpoints(root: Path, said: list[str]) -> None:
    """The newest is whole and as new as the last that was acknowledged, and the next start does not lose it."""
    acknowledged = max([1, *map(int, said)])
    assert newest_number(root) >= acknowledged
    found = newest_number(root)
    folders.prune(root, keep=2)  # what every later save does
    assert newest_number(root) == found
    assert len(newest_first(root)) == 2
    save(root, train_state(12, 9), keep=2)
    assert newest_number(root) == 9
    assert [path.name for path in root.glob(".*")] == []


def newest_number(root: Path) -> int:
    folder, remarks = checkpoint.latest_valid(newest_first(root), ALONE)
    assert remarks == []
    assert folder is not None, "no checkpoint is left"
    return int(json.loads((folder / "trainer.json").read_text())["value"])


def test_no_kill_costs_a_checkpoint(tmp_path: Path) -> None:
    assert kill_everywhere(save_again_and_on, check_checkpoints, tmp_path, begin) > 40


def test_no_kill_of_the_thread_that_writes_costs_a_checkpoint(tmp_path: Path) -> None:
    assert kill_everywhere(save_on_a_writer_thread, check_checkpoints, tmp_path, begin) > 15


def test_a_second_kill_while_the_first_one_is_mended_costs_no_checkpoint(tmp_path: Path) -> None:
    def cut_between_the_renames(root: Path) -> None:
        begin(root)
        save(root / "other", train_state(6, 2), keep=1)
        (root / "step_000006").rename(root / ".unfinished-replaced-step_000006")
        (root / "other" / "step_000006").rename(root / ".unfinished-step_000006")
        (root / "other").rmdir()

    assert kill_everywhere(save_again_and_on, check_checkpoints, tmp_path, cut_between_the_renames) > 40


def delete_before_renaming(temporary: Path, final: Path) -> None:
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)


def overlook_hidden_ones(root: Path) -> dict[str, Path]:
    return {folder.name: folder for folder in root.glob("step_*")}


@pytest.mark.parametrize(("name", "bug"), [("publish", delete_before_renaming), ("_found", overlook_hidden_ones)])
def test_a_planted_bug_in_the_order_of_publishing_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, bug: Callable[..., Any]
) -> None:
    monkeypatch.setattr(folders, name, bug)
    with pytest.raises(AssertionError) as caught:
        kill_everywhere(save_again_and_on, check_checkpoints, tmp_path, begin)
    assert caught.value.__notes__[0].startswith("killed before ")


# Records


@pytest.fixture
def begin_experiment(make_manifest: Callable[..., Manifest]) -> Callable[[Path], None]:
    manifest = make_manifest(1, ID)

    def begin(folder: Path) -> None:
        Experiment.create(str(folder), ID, manifest)

    return begin


def opened(folder: Path) -> tuple[Experiment, TrialRecord]:
    experiment = Experiment.open(str(folder / ID))
    return experiment, experiment.trials()[0]


def store_steps(record: TrialRecord, steps: range) -> None:
    record.append_rows(0, [row(step, trial=record.name) for step in steps])


def run_a_trial(folder: Path, say: Say) -> None:
    """A trial from its first attempt to its result, as driver and rank 0 store it."""
    experiment, record = opened(folder)
    record.write_config(experiment.plan.trials[0].config)
    attempt = record.start_attempt(num_workers=2)
    say("attempt")
    for steps in (range(2), range(2, 4), range(4, 6)):
        store_steps(record, steps)
        say(f"steps {steps.stop}")
    record.update_attempt(replace(attempt, end="completed", ended_utc=utc_now()))
    say("end")
    record.compact()
    record.write_result(trial_result(record.name, last_step=5))
    say("result")


def check_trial(folder: Path, said: list[str]) -> None:
    _, record = opened(folder)
    stored, attempts, result = record.steps(), record.attempts(), record.result()
    numbers = stored.steps.ints("step")
    acknowledged = max([0, *(int(text.split()[1]) for text in said if text.startswith("steps"))])
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= acknowledged
    assert stored.torn == ()
    assert len(attempts) == 1 or "attempt" not in said
    assert "end" not in said or attempts[0].end == "completed"
    assert "result" not in said or result is not None
    if result is not None:
        assert len(numbers) == 6
        assert record.state() == "completed"
    record.compact()  # what a restore does
    assert [each.step for each in record.rows()] == numbers


def test_no_kill_loses_a_row_or_leaves_half_a_document(
    tmp_path: Path, begin_experiment: Callable[[Path], None]
) -> None:
    assert kill_everywhere(run_a_trial, check_trial, tmp_path, begin_experiment) > 30


def write_the_result_before_the_rows(folder: Path, say: Say) -> None:
    _, record = opened(folder)
    record.start_attempt(num_workers=2)
    store_steps(record, range(4))
    say("steps 4")
    record.write_result(trial_result(record.name, last_step=5))
    store_steps(record, range(4, 6))


def test_a_result_that_is_planted_before_its_rows_is_caught(
    tmp_path: Path, begin_experiment: Callable[[Path], None]
) -> None:
    with pytest.raises(AssertionError, match="assert 4 == 6"):
        kill_everywhere(write_the_result_before_the_rows, check_trial, tmp_path, begin_experiment)


def test_a_write_that_is_planted_to_delete_before_it_renames_is_caught(
    tmp_path: Path, begin_experiment: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_later(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        with suppress(FileNotFoundError):
            os.unlink(target, dir_fd=dst_dir_fd)
        os.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(local_disk.os, "replace", replace_later)
    with pytest.raises(AssertionError) as caught:
        kill_everywhere(run_a_trial, check_trial, tmp_path, begin_experiment)
    assert "rename" in caught.value.__notes__[0]


def test_no_kill_leaves_half_a_manifest_or_takes_the_name_away(
    tmp_path: Path, make_manifest: Callable[..., Manifest]
) -> None:
    manifest = make_manifest(1, ID)

    def create(folder: Path, say: Say) -> None:
        Experiment.create(str(folder), ID, manifest)
        say("created")

    def check(folder: Path, said: list[str]) -> None:
        is_there = (folder / ID / "manifest.json").exists()
        assert is_there or not said
        experiment = Experiment.open(str(folder / ID)) if is_there else Experiment.create(str(folder), ID, manifest)
        assert experiment.manifest == manifest
        assert experiment.state() == "interrupted"

    assert kill_everywhere(create, check, tmp_path) > 4


# Locks


def test_no_kill_locks_an_experiment_for_ever(tmp_path: Path) -> None:
    def hold_twice(folder: Path, say: Say) -> None:
        for _ in range(2):
            lock = Lock(Store(str(folder)), Owner.this_process())
            lock.acquire()
            assert current_owner(Store(str(folder))) == lock.owner
            lock.release()

    def check(folder: Path, said: list[str]) -> None:
        store = Store(str(folder))
        assert current_owner(store) is None
        successor = Lock(store, Owner.this_process())
        successor.acquire()
        assert current_owner(store) == successor.owner
        successor.release()

    assert kill_everywhere(hold_twice, check, tmp_path) >= 4
