"""Every shard is looked at once, again when it was changed, and what was found survives kills and damage."""

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat.config import ConfigError
from nanochat.data import contents, corpus
from nanochat.data.shards import write_shard

Looked = list[str]


@pytest.fixture
def web(tmp_path: Path) -> Path:
    folder = tmp_path / "web"
    folder.mkdir()
    for i in range(3):
        write_shard(folder / f"{i}.parquet", [[f"page {i}", ""], ["more"]])
    return folder


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Looked:
    """The names of the files that are read, as they are."""
    seen: Looked = []
    look = contents.look_at_one
    monkeypatch.setattr(contents, "look_at_one", lambda path: (seen.append(path.name), look(path))[1])
    return seen


def _look_at(web: Path) -> list[contents.Contents]:
    return contents.look_at(sorted(web.glob("*.parquet")), web.parent / "cache")


def test_a_shard_is_looked_at_once(web: Path, looked: Looked):
    first = _look_at(web)
    assert [(seen.num_documents, seen.has_text) for seen in first] == [(3, True)] * 3
    assert len({seen.sha256 for seen in first}) == 3
    assert _look_at(web) == first
    assert sorted(looked) == ["0.parquet", "1.parquet", "2.parquet"]


def _same_size(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"page 1", b"page 9"))


def _same_size_and_time(path: Path) -> None:
    before = path.stat()
    _same_size(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _another_file(path: Path) -> None:
    before = path.stat()
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(path.read_bytes().replace(b"page 1", b"page 9"))
    os.utime(temporary, ns=(before.st_atime_ns, before.st_mtime_ns))
    temporary.rename(path)


def _an_older_time(path: Path) -> None:
    """As after a clock that went back."""
    _same_size(path)
    os.utime(path, (0, 0))


@pytest.mark.parametrize("change", [_same_size, _same_size_and_time, _another_file, _an_older_time])
def test_a_changed_shard_is_another_text_whatever_its_size_and_time(
    web: Path, looked: Looked, change: Callable[[Path], None]
):
    before = corpus.open_folder(web, web.parent / "cache")
    looked.clear()
    change(web / "1.parquet")
    after = corpus.open_folder(web, web.parent / "cache")
    assert looked == ["1.parquet"]
    assert after.text_digest != before.text_digest
    assert after.older_digest == before.older_digest  # names and sizes do not show it


def test_the_digest_is_of_the_text_in_its_order_not_of_names(web: Path):
    cache = web.parent / "cache"
    before = corpus.open_folder(web, cache)
    (web / "0.parquet").rename(web / "00.parquet")
    assert corpus.open_folder(web, cache).text_digest == before.text_digest
    (web / "00.parquet").rename(web / "9.parquet")
    assert corpus.open_folder(web, cache).text_digest != before.text_digest
    (web / "9.parquet").rename(web / "00.parquet")
    moved = web.rename(web.with_name("elsewhere"))
    again = corpus.open_folder(moved, cache)
    assert (again.digest, again.tokenizer_dir) == (before.digest, before.tokenizer_dir)


def test_a_changed_text_of_equal_names_and_sizes_gets_a_tokenizer_of_its_own(web: Path):
    before = corpus.open_folder(web, web.parent / "cache")
    _same_size_and_time(web / "1.parquet")
    assert corpus.open_folder(web, web.parent / "cache").tokenizer_dir != before.tokenizer_dir


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": "nanochat-sweep/contents/1", "shards": {"a": 1}}'])
def test_a_damaged_memory_is_replaced(web: Path, looked: Looked, damage: bytes):
    first = _look_at(web)
    (kept,) = (web.parent / "cache").glob("contents-*.json")
    whole = kept.read_bytes()
    kept.write_bytes(damage)
    assert _look_at(web) == first
    assert len(looked) == 6
    assert kept.read_bytes() == whole


def test_without_a_cache_that_can_be_written_every_look_is_a_first_one(web: Path, looked: Looked):
    (web.parent / "cache").write_text("a file is in the way")
    assert _look_at(web) == _look_at(web)
    assert len(looked) == 6


def test_what_was_seen_before_a_kill_is_kept(web: Path, looked: Looked, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(contents, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(contents, "MAX_THREADS", 1)
    look = contents.look_at_one

    def killed_at_the_last(path: Path) -> object:
        if path.name == "2.parquet":
            raise KeyboardInterrupt
        return look(path)

    with monkeypatch.context() as patched:
        patched.setattr(contents, "look_at_one", killed_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            _look_at(web)
    looked.clear()
    _look_at(web)
    assert looked == ["2.parquet"]


def test_a_shard_that_changes_while_it_is_read_is_refused(web: Path, monkeypatch: pytest.MonkeyPatch):
    has_text = contents.shards.has_text

    def meanwhile(path: Path, file: object) -> bool:
        with path.open("ab") as growing:
            growing.write(b"more")
        return has_text(path, file)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(contents.shards, "has_text", meanwhile)
    with pytest.raises(ConfigError, match=r"0\.parquet was changed while it was read; try again when it is complete"):
        _look_at(web)
    assert not list((web.parent / "cache").glob("contents-*"))


def _report(web: Path, results: "multiprocessing.Queue[list[str]]") -> None:
    results.put([seen.sha256 for seen in _look_at(web)])


def test_processes_that_start_together_find_the_same(web: Path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_report, args=(web, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found == [found[0]] * 4
    (kept,) = (web.parent / "cache").glob("contents-*.json")
    assert len(json.loads(kept.read_bytes())["shards"]) == 3


def test_an_earlier_look_is_recalled_without_reading(web: Path, looked: Looked):
    paths = sorted(web.glob("*.parquet"))
    assert contents.recall(paths, web.parent / "cache") is None
    first = _look_at(web)
    looked.clear()
    assert contents.recall(paths, web.parent / "cache") == first
    _same_size(web / "1.parquet")
    assert contents.recall(paths, web.parent / "cache") is None
    assert looked == []
