"""A corpus is found, or made once: whole, the same for everybody, and out of anybody's way when it fails."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.config import ConfigError
from nanochat.data import cache as kept
from nanochat.data import corpus as dataset
from nanochat.data import tokenizer
from nanochat.data.shards import RowGroups, write_shard

_ROOT = Path(dataset.__file__).parents[2]
_PREPARE = "import sys, pathlib; from nanochat.data import corpus; corpus.prepare_embedded(pathlib.Path(sys.argv[1]))"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def austen(cache: Path) -> dataset.Corpus:
    return dataset.prepare_embedded(cache)


def _prepare_in_a_process(cache: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _PREPARE, str(cache)], cwd=_ROOT)


def _documents(*shards: Path) -> list[str]:
    groups, texts, number = RowGroups(shards), list[str](), 0
    while (group := groups.get(number)) is not None:
        texts += groups.read(group)
        number += 1
    return texts


def _num_row_groups(*shards: Path) -> int:
    return sum(pq.ParquetFile(shard).num_row_groups for shard in shards)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_embedded_corpus_lies_under_its_digest_with_the_last_shard_for_validation(
    cache: Path, austen: dataset.Corpus
):
    folder = cache / f"austen-{austen.text_digest[:12]}"
    assert [shard.name for shard in austen.train_shards] == [f"shard_{i:05d}.parquet" for i in range(4)]
    assert austen.val_shard == folder / "shard_00004.parquet"
    assert austen.tokenizer_dir == folder / "tokenizer"


def test_sixty_four_lanes_have_two_row_groups_each(austen: dataset.Corpus):
    assert _num_row_groups(*austen.train_shards) == 128
    assert _num_row_groups(austen.val_shard) == 8


def test_documents_are_about_eight_hundred_tokens_at_most_and_all_of_the_novels_is_there(austen: dataset.Corpus):
    encoder = tokenizer.load(austen)
    lengths = [len(ids) for ids in encoder.encode_batch(_documents(*austen.train_shards, austen.val_shard))]
    assert max(lengths) < 830
    assert 890_000 < sum(lengths) < 905_000


def test_its_tokenizer_runs_out_of_merges_below_the_specials(austen: dataset.Corpus):
    encoder = tokenizer.load(austen)
    assert 28_000 < encoder.num_merged_ids < 31_000
    assert encoder.bos_id == 32_759


def test_every_training_shard_and_the_validation_shard_mix_all_six_novels(austen: dataset.Corpus):
    heroes = ["Emma", "Fanny", "Catherine", "Anne", "Darcy", "Elinor"]
    for shard in (*austen.train_shards, austen.val_shard):
        text = " ".join(_documents(shard))
        assert [hero for hero in heroes if hero not in text] == []


def test_validation_documents_are_not_trained_on(austen: dataset.Corpus):
    assert not set(_documents(*austen.train_shards)) & set(_documents(austen.val_shard))


def test_two_builds_are_equal_byte_for_byte(tmp_path: Path, austen: dataset.Corpus):
    again = dataset.prepare_embedded(tmp_path)
    assert _files(again.val_shard.parent) == _files(austen.val_shard.parent)


def test_a_built_corpus_is_not_built_again(cache: Path, austen: dataset.Corpus):
    dataset.prepare_embedded(cache)  # what was built is looked at once
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert dataset.prepare_embedded(cache) == austen
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_eight_processes_at_once_get_one_whole_corpus(tmp_path: Path, austen: dataset.Corpus):
    processes = [_prepare_in_a_process(tmp_path) for _ in range(8)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 8
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [f"austen-{austen.text_digest[:12]}"]
    assert _files(tmp_path / f"austen-{austen.text_digest[:12]}") == _files(austen.val_shard.parent)


def test_without_locks_a_second_builder_leaves_the_first_ones_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, austen: dataset.Corpus
):
    finished = austen.val_shard.parent
    publish = kept.move_into_place

    def another_is_faster(temporary: Path, folder: Path, is_whole: Callable[[Path], bool]) -> None:
        shutil.copytree(finished, folder)
        publish(temporary, folder, is_whole)

    monkeypatch.setattr(kept, "move_into_place", another_is_faster)
    corpus = dataset.prepare_embedded(tmp_path)
    assert _files(corpus.val_shard.parent) == _files(finished)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [finished.name]


def test_a_process_killed_while_building_is_no_obstacle(tmp_path: Path, austen: dataset.Corpus):
    process = _prepare_in_a_process(tmp_path)
    while not (half_built := [path for path in tmp_path.glob(".austen-*") if path.is_dir()]):
        assert process.poll() is None, "it was done before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert half_built[0].is_dir()
    corpus = dataset.prepare_embedded(tmp_path)
    assert _files(corpus.val_shard.parent) == _files(austen.val_shard.parent)


@pytest.mark.parametrize("written_s", [0.0, 4e9])  # long ago, or in the future by a clock that was wrong
def test_what_a_killed_builder_of_this_host_left_is_removed_by_the_next_one(
    tmp_path: Path, austen: dataset.Corpus, written_s: float
):
    name = f"austen-{austen.text_digest[:12]}"
    own, strange = (tmp_path / f".{name}@{host}-left" for host in (socket.gethostname(), "another-host"))
    for path in (own, strange):
        path.mkdir()
        os.utime(path, (written_s, written_s))
    dataset.prepare_embedded(tmp_path)
    assert not own.exists()
    assert strange.exists()


def test_a_cached_shard_or_tokenizer_that_was_changed_is_built_again(tmp_path: Path, austen: dataset.Corpus):
    corpus = dataset.prepare_embedded(tmp_path)
    for damage in (
        lambda: write_shard(corpus.train_shards[1], [["other text"]]),
        lambda: (corpus.tokenizer_dir / "merges.tiktoken").open("a").write("YWE= 31000\n"),
    ):
        damage()
        assert dataset.prepare_embedded(tmp_path) == corpus
        assert _files(corpus.val_shard.parent) == _files(austen.val_shard.parent)


def test_a_cached_corpus_that_lost_a_file_is_built_again(tmp_path: Path, austen: dataset.Corpus):
    dataset.prepare_embedded(tmp_path).train_shards[1].unlink()
    corpus = dataset.prepare_embedded(tmp_path)
    assert _files(corpus.val_shard.parent) == _files(austen.val_shard.parent)


def test_a_failing_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset.shards, "write_shard", no_space)
    with pytest.raises(ConfigError, match=r"cannot be written .No space left on device.*NANOCHAT_CACHE"):
        dataset.prepare_embedded(tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_cache_that_cannot_be_a_folder_is_named_with_the_way_out(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cache folder .*file/cache cannot be written.*set NANOCHAT_CACHE"):
        dataset.prepare_embedded(tmp_path / "file" / "cache")


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NANOCHAT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dataset.cache_folder() == tmp_path / ".cache" / "nanochat-sweep"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert dataset.cache_folder() == tmp_path / "xdg" / "nanochat-sweep"
    monkeypatch.setenv("NANOCHAT_CACHE", str(tmp_path / "own"))
    assert dataset.cache_folder() == tmp_path / "own"


def test_no_source_means_the_embedded_corpus(cache: Path, austen: dataset.Corpus, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NANOCHAT_CACHE", str(cache))
    assert dataset.open_corpus(None) == austen


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """Three shards as one finds them on a hub."""
    folder = tmp_path / "web"
    folder.mkdir()
    for i in range(3):
        write_shard(folder / f"shard_{i:05d}.parquet", [[f"page {i} of the web", "a second page"], ["more pages"]])
    return folder


def test_a_folder_of_shards_is_opened_in_place_with_the_last_one_for_validation(web: Path, tmp_path: Path):
    corpus = dataset.open_folder(web, tmp_path / "cache")
    assert corpus.train_shards == (web / "shard_00000.parquet", web / "shard_00001.parquet")
    assert corpus.val_shard == web / "shard_00002.parquet"
    assert tokenizer.load(corpus).decode(tokenizer.load(corpus).encode("page 7")) == "page 7"


def test_files_that_are_no_shards_are_left_alone(web: Path, tmp_path: Path):
    (web / "README.md").write_text("hello")
    (web / "shard_00009.parquet.partial").write_bytes(b"half")
    assert dataset.open_folder(web, tmp_path / "cache").val_shard.name == "shard_00002.parquet"


def test_the_trained_tokenizer_of_a_folder_is_kept_until_its_files_change(web: Path, tmp_path: Path):
    first = dataset.open_folder(web, tmp_path / "cache")
    assert first == dataset.open_folder(web, tmp_path / "cache")
    write_shard(web / "shard_00003.parquet", [["one more"]])
    grown = dataset.open_folder(web, tmp_path / "cache")
    assert grown.digest != first.digest
    assert grown.tokenizer_dir != first.tokenizer_dir


def test_the_tokenizer_of_a_folder_never_sees_the_validation_shard(tmp_path: Path):
    write_shard(tmp_path / "a.parquet", [["train train train"]])
    write_shard(tmp_path / "b.parquet", [["zebra zebra zebra"]])
    encoder = tokenizer.load(dataset.open_folder(tmp_path, tmp_path / "cache"))
    assert len(encoder.encode("train")) == 1
    assert len(encoder.encode("zebra")) == 5


def test_a_bounded_sample_trains_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dataset, "MAX_SAMPLE_CHARS", 10)
    monkeypatch.setattr(dataset, "MAX_SAMPLE_CHARS_PER_DOCUMENT", 6)
    write_shard(tmp_path / "a.parquet", [["aaaaaaaaa", "bbb"], ["cc", "dd"]])
    assert list(dataset.sample_of([tmp_path / "a.parquet"])) == ["aaaaaa", "bbb", "cc"]


def test_a_tokenizer_in_the_folder_is_used_as_it_is(web: Path, tmp_path: Path):
    tokenizer.learn(["zebra zebra"]).write(web / "tokenizer")
    corpus = dataset.open_folder(web, tmp_path / "cache")
    assert corpus.tokenizer_dir == web / "tokenizer"
    assert len(tokenizer.load(corpus).encode("zebra")) == 1
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_text_in_other_tokens_is_another_corpus(web: Path, tmp_path: Path):
    digests = {dataset.open_folder(web, tmp_path / "cache").digest}
    for text in ("zebra zebra", "mouse mouse"):
        shutil.rmtree(web / "tokenizer", ignore_errors=True)
        tokenizer.learn([text]).write(web / "tokenizer")
        digests.add(dataset.open_folder(web, tmp_path / "cache").digest)
    assert len(digests) == 3


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"data folder .*nowhere does not exist"):
        dataset.open_corpus(str(tmp_path / "nowhere"))


def test_a_folder_without_shards_and_one_with_a_single_shard_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"holds no \*\.parquet file; it needs two shards or more"):
        dataset.open_folder(tmp_path)
    write_shard(tmp_path / "shard_00000.parquet", [["alone"]])
    with pytest.raises(ConfigError, match=r"only shard_00000\.parquet; .* the last one is for validation"):
        dataset.open_folder(tmp_path)


def test_a_missing_text_column_is_named_with_the_columns_there_are(web: Path):
    pq.write_table(pa.table({"content": ["x"], "url": ["y"]}), web / "shard_00002.parquet")
    with pytest.raises(ConfigError, match=r"shard_00002\.parquet has no column 'text', only content, url"):
        dataset.open_folder(web, web.parent / "cache")


def test_shards_without_documents_are_refused(web: Path):
    write_shard(web / "shard_00002.parquet", [[]])
    with pytest.raises(ConfigError, match=r"the validation text of .* \(shard_00002\.parquet\) holds no documents"):
        dataset.open_folder(web, web.parent / "cache")


def test_a_file_that_is_no_parquet_is_named(web: Path):
    (web / "shard_00000.parquet").write_bytes(b"not parquet")
    with pytest.raises(ConfigError, match=r"shard_00000\.parquet cannot be read as Parquet"):
        dataset.open_folder(web, web.parent / "cache")
