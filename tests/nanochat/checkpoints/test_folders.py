"""Checkpoint folders: the newest are kept, by the order of publication, and a kill loses none."""

import json
import shutil
import time
from pathlib import Path

import pytest

from nanochat.checkpoints import format as checkpoint
from nanochat.checkpoints.folders import newest_first, prune, publish, save, step_of
from nanochat.checkpoints.format import INDEX
from tests.helpers.train_states import train_state

HOUR_S = 3600.0


def names(root: Path) -> list[str]:
    return [folder.name for folder in newest_first(root)]


def value(folder: Path) -> float:
    checkpoint.verify(folder)
    return json.loads((folder / "trainer.json").read_text())["value"]


def set_clock(monkeypatch: pytest.MonkeyPatch, offset_s: float) -> None:
    now = time.time
    monkeypatch.setattr("nanochat.checkpoints.format.time.time", lambda: now() + offset_s)


def forget_the_order(folder: Path, written_unix_s: float) -> None:
    """Makes it a checkpoint of an older version, which numbered nothing."""
    (folder / "order.json").unlink()
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | {"written_unix_s": written_unix_s}))


def test_the_newest_are_kept_and_whole(tmp_path: Path):
    for step in (10, 20, 30, 40):
        save(tmp_path, train_state(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000030", "step_000040"]
    assert names(tmp_path) == ["step_000040", "step_000030"]
    for folder in newest_first(tmp_path):
        checkpoint.verify(folder)


def test_a_step_that_is_saved_again_takes_the_older_ones_place(tmp_path: Path):
    for number in (1.0, 2.0):
        save(tmp_path, train_state(10, number), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000010"]
    assert value(tmp_path / "step_000010") == 2.0


def test_a_run_from_the_beginning_in_the_same_place_comes_before_the_older_one(tmp_path: Path):
    for step in (9, 1):
        save(tmp_path, train_state(step), keep=2)
    assert names(tmp_path) == ["step_000001", "step_000009"]


def test_a_clock_that_is_set_back_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for step in (2, 4, 6):
        save(tmp_path, train_state(step), keep=2)
    set_clock(monkeypatch, -HOUR_S)
    for step, kept in ((8, ["step_000008", "step_000006"]), (10, ["step_000010", "step_000008"])):
        save(tmp_path, train_state(step), keep=2)
        assert names(tmp_path) == kept


def test_the_first_new_checkpoint_next_to_those_of_an_older_version_is_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for step in (2, 4):
        save(tmp_path, train_state(step), keep=2)
    for written_s, folder in enumerate(reversed(newest_first(tmp_path))):
        forget_the_order(folder, time.time() + HOUR_S + written_s)
    assert names(tmp_path) == ["step_000004", "step_000002"]
    set_clock(monkeypatch, -HOUR_S)
    save(tmp_path, train_state(6), keep=2)
    assert names(tmp_path) == ["step_000006", "step_000004"]


def begin_again(root: Path) -> Path:
    """A root with step 10, and a complete newer one of step 10 that is not yet published."""
    save(root / "other", train_state(10, 2.0), keep=1)
    save(root, train_state(10, 1.0), keep=1)
    return (root / "other" / "step_000010").rename(root / ".unfinished-step_000010")


def test_killed_between_the_two_renames_the_newer_one_is_found_and_gets_its_name_back(tmp_path: Path):
    newer = begin_again(tmp_path)
    (tmp_path / "step_000010").rename(tmp_path / ".unfinished-replaced-step_000010")
    assert newest_first(tmp_path) == [newer]
    assert (step_of(newer), value(newer)) == (10, 2.0)
    prune(tmp_path, keep=1)
    assert sorted(path.name for path in tmp_path.glob("*step_*")) == ["step_000010"]
    assert value(tmp_path / "step_000010") == 2.0


def test_the_older_one_is_found_where_the_newer_one_is_not_complete(tmp_path: Path):
    newer = begin_again(tmp_path)
    (newer / INDEX).unlink()
    older = (tmp_path / "step_000010").rename(tmp_path / ".unfinished-replaced-step_000010")
    assert newest_first(tmp_path) == [older]
    save(tmp_path, train_state(20), keep=2)
    assert names(tmp_path) == ["step_000020", "step_000010"]
    assert value(tmp_path / "step_000010") == 1.0


def test_both_survive_a_publication_that_the_file_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    newer = begin_again(tmp_path)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path == newer:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="No space left"):
        publish(newer, tmp_path / "step_000010")
    monkeypatch.undo()
    shutil.rmtree(newer)
    assert [value(folder) for folder in newest_first(tmp_path)] == [1.0]


def test_what_is_not_named_like_a_checkpoint_is_neither_read_nor_deleted(tmp_path: Path):
    strange = ["step_000010 (copy)", "step_10", "step_000010.zip", "my_step_000010", ".DS_Store"]
    for name in strange:
        (tmp_path / name).mkdir()
    for step in (10, 20):
        save(tmp_path, train_state(step), keep=1)
    assert names(tmp_path) == ["step_000020"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*strange, "step_000020"])


@pytest.mark.parametrize("number", ["1e300", "1" + "0" * 400, "NaN", "-1", '"x"', "[]", "null", "[" * 5000])
def test_no_number_in_a_folder_makes_new_checkpoints_older_than_it(tmp_path: Path, number: str):
    save(tmp_path, train_state(10), keep=1)
    (tmp_path / "step_000010" / "order.json").write_text('{"number": ' + number + "}")
    save(tmp_path, train_state(20), keep=1)
    assert names(tmp_path) == ["step_000020"]
