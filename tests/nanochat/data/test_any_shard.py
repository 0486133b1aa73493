"""Whatever is in a data folder: it is trained on, or rejected in one sentence that names the file and a way out."""

import os
import random
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nanochat.config import ConfigError
from nanochat.data import corpus as dataset
from nanochat.data import size, tokenizer
from nanochat.data.corpus import Corpus
from nanochat.data.lanes import Lanes
from nanochat.data.shards import write_shard

Put = Callable[[Path], object]
_NUM_LANES = 3


def _use(corpus: Corpus) -> None:
    """All that a run does with a corpus: its tokenizer, its size, batches of both splits."""
    encoder = tokenizer.load(corpus)
    size.measure_corpus(corpus, encoder)
    for split in ("train", "val"):
        lanes = Lanes(
            corpus, encoder, split=split, num_lanes=_NUM_LANES, rank=0, world_size=1, batch_size=2, seq_len=16
        )
        for _ in range(3):
            for lane in lanes.my_lanes:
                lanes.next_batch(lane)


def _opened(folder: Path) -> str | None:
    """None if the folder can be trained on, else what is said; anything but a sentence fails the test."""
    try:
        _use(dataset.open_folder(folder, folder.parent / "cache"))
    except ConfigError as error:
        said = str(error)
        assert "\n" not in said, said
        assert ";" in said, said  # what to do next
        assert str(folder) in said, said
        return said
    return None


def _table(column: Any, name: str = "text", **others: Any) -> Put:
    return lambda path: pq.write_table(pa.table({name: column, **others}), path)


def _bytes(content: bytes) -> Put:
    return lambda path: path.write_bytes(content)


def _valid(path: Path) -> None:
    write_shard(path, [["hello world", "good bye"], ["more"]])


def _invalid_utf8(path: Path) -> None:
    array = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\5\0\0\0"), pa.py_buffer(b"ok\xed\xa0\x80")]
    )
    pq.write_table(pa.table({"text": array}), path)


def _without_row_groups(path: Path) -> None:
    pq.ParquetWriter(path, pa.schema([("text", pa.string())])).close()


def _two_text_columns(path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)


def _unreadable(path: Path) -> None:
    _valid(path)
    path.chmod(0)


def _a_pipe(path: Path) -> None:
    os.mkfifo(path)


def _a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # its path can be short only
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def _truncated(path: Path) -> None:
    _valid(path)
    path.write_bytes(path.read_bytes()[:-20])


def _damaged_inside(path: Path) -> None:
    write_shard(path, [["hello " * 500]])
    body = bytearray(path.read_bytes())
    body[4:60] = b"\xff" * 56
    path.write_bytes(body)


WORKS: dict[str, Put] = {
    "strings": _valid,
    "large strings": _table(pa.array(["some text", "more"], pa.large_string())),
    "string views": _table(pa.array(["some text", "more"], pa.string_view())),
    "a dictionary": _table(pa.array(["some text", "more", "more"]).dictionary_encode()),
    "a dictionary of large strings": _table(pa.array(["a text"] * 3, pa.large_string()).dictionary_encode()),
    "nulls among text": _table(pa.array([None, "text", None])),
    "empty documents among text": _table(["", "text", ""]),
    "control characters": _table(["\0\1\2\x1b[31m", "\r\n\t", "\x7f\x85\u2028\ufeff\U000e0001"]),
    "nulls of C": _table(["\0" * 50_000]),
    "blanks": _table([" " * 30_000, "\n" * 30_000]),
    "one huge document": _table(["word " * 400_000]),
    "a million blanks": _table(["x" + " " * 1_100_000 + "y"]),
    "one huge word": _table(["a" * 300_000]),
    "many columns": _table(["some text"], url=["u"], score=[0.5], tags=[["a", "b"]]),
    "no compression": lambda path: pq.write_table(pa.table({"text": ["some text"]}), path, compression="NONE"),
    "zstd": lambda path: pq.write_table(pa.table({"text": ["some text"] * 9}), path, compression="zstd"),
    "data pages of version 2": lambda path: pq.write_table(
        pa.table({"text": ["some text"] * 9}), path, data_page_version="2.0"
    ),
    "byte stream by lengths": lambda path: pq.write_table(
        pa.table({"text": ["some text"] * 9}),
        path,
        use_dictionary=False,
        column_encoding={"text": "DELTA_LENGTH_BYTE_ARRAY"},
    ),
    "metadata of pandas": lambda path: pq.write_table(
        pa.table({"text": ["some text"]}).replace_schema_metadata({b"pandas": b"{}", b"\xff": b"\xfe"}), path
    ),
}

EMPTY: dict[str, Put] = {
    "no rows": _table(pa.array([], pa.string())),
    "no row groups": _without_row_groups,
    "empty row groups": lambda path: write_shard(path, [[], []]),
    "all null strings": _table(pa.array([None] * 3, pa.string())),
    "all empty": _table([""] * 3),
}

REFUSED: dict[str, tuple[Put, str]] = {
    "integers": (_table([1, 2]), "holds int64, not text"),
    "lists": (_table([["a"], ["b"]]), "holds list<"),
    "binary": (_table([b"a", b"b"]), "holds binary, not text"),
    "structs": (_table([{"a": "b"}]), "holds struct<"),
    "all null without a type": (_table(pa.nulls(3)), "holds null, not text"),
    "a dictionary of numbers": (_table(pa.array([1, 1]).dictionary_encode()), "holds int64, not text"),
    "dates": (_table(pa.array([1], pa.date32())), "holds date32"),
    "another name": (_table(["a"], name="content"), "has no column 'text', only content"),
    "another case": (_table(["a"], name="Text"), "has no column 'text', only Text"),
    "two of the name": (_two_text_columns, "has 2 columns 'text'"),
    "no columns": (lambda path: pq.write_table(pa.table({}), path), "has no column 'text', only none at all"),
    "an empty file": (_bytes(b""), "cannot be read as Parquet"),
    "text": (_bytes(b"hello\n"), "cannot be read as Parquet"),
    "a page of HTML": (_bytes(b"<html>404</html>"), "cannot be read as Parquet"),
    "magic bytes alone": (_bytes(b"PAR1PAR1"), "cannot be read as Parquet"),
    "magic bytes around rubbish": (_bytes(b"PAR1" + b"\xff" * 99 + b"PAR1"), "cannot be read as Parquet"),
    "a truncated file": (_truncated, "cannot be read as Parquet"),
    "damaged pages": (_damaged_inside, "is damaged"),
    "what is not UTF-8": (_invalid_utf8, "document 1 of the shard is not valid UTF-8"),
    "a folder": (lambda path: path.mkdir(), "is a folder, not a shard"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "is a link to nowhere, which does not exist"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "is a link to"),
    "a pipe": (_a_pipe, "is not a regular file"),
    "a socket": (_a_socket, "is not a regular file"),
    "an unreadable file": (_unreadable, "cannot be read"),
}


@pytest.mark.parametrize("kind", WORKS)
@pytest.mark.parametrize("place", ["0.parquet", "9.parquet"])
def test_what_holds_text_is_trained_on(tmp_path: Path, kind: str, place: str):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in {"1.parquet", "2.parquet"} | {place}:
        (WORKS[kind] if name == place else _valid)(folder / name)
    assert _opened(folder) is None


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("place", ["0.parquet", "1.parquet", "9.parquet"])
def test_what_cannot_be_trained_on_is_named(tmp_path: Path, kind: str, place: str):
    if kind == "an unreadable file" and os.geteuid() == 0:
        pytest.skip("root reads everything")
    folder = tmp_path / "data"
    folder.mkdir()
    put, seen = REFUSED[kind]
    for name in ("0.parquet", "1.parquet", "9.parquet"):
        (put if name == place else _valid)(folder / name)
    said = _opened(folder)
    assert said is not None
    assert str(folder / place) in said
    assert seen in said


@pytest.mark.parametrize("kind", EMPTY)
def test_a_shard_without_text_is_passed_over_but_neither_part_may_be_without(tmp_path: Path, kind: str):
    for name, empty, seen in (
        ("one", ["0.parquet"], None),
        ("train", ["0.parquet", "1.parquet"], "the training text of"),
        ("val", ["9.parquet"], r"the validation text of .* \(9\.parquet\)"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("0.parquet", "1.parquet", "9.parquet"):
            (EMPTY[kind] if file in empty else _valid)(folder / file)
        said = _opened(folder)
        assert said is None if seen is None else re.search(seen, said or "")


LEFT_BY_SYSTEMS = (
    *(".DS_Store", "._0.parquet", "._shard_00000.parquet", "Thumbs.db", "desktop.ini", "0.parquet.tmp"),
    *("1.parquet.crdownload", "1.parquet.part", "1.parquet~", ".1.parquet.swp", "~$notes.docx", "_SUCCESS"),
    *(".ipynb_checkpoints/0-checkpoint.parquet", "lost+found/", "@eaDir/0.parquet", "__MACOSX/._0.parquet"),
    *(".0.parquet.crc", ".nfs000000000001", "$RECYCLE.BIN/", ".Trash-1000/files/0.parquet", "README.md"),
)


@pytest.mark.parametrize("left", LEFT_BY_SYSTEMS)
def test_what_systems_leave_beside_data_changes_nothing(tmp_path: Path, left: str):
    folder = tmp_path / "data"
    for name in ("", "tokenizer"):
        (folder / name).mkdir()
    for name in ("0.parquet", "1.parquet"):
        _valid(folder / name)
    tokenizer.learn(["hello world"]).write(folder / "made")
    for file in (folder / "made").iterdir():
        file.rename(folder / "tokenizer" / file.name)
    (folder / "made").rmdir()
    before = dataset.open_folder(folder, tmp_path / "cache")
    for place in (folder, folder / "tokenizer"):
        (place / left).parent.mkdir(parents=True, exist_ok=True)
        if left.endswith("/"):
            (place / left).mkdir(mode=0)
        else:
            (place / left).write_bytes(b"\0\5\x16\7 not parquet")
    after = dataset.open_folder(folder, tmp_path / "cache")
    assert (after.digest, after.train_shards, after.val_shard) == (before.digest, before.train_shards, before.val_shard)
    _use(after)


def test_links_to_shards_and_to_the_folder_are_followed(tmp_path: Path):
    (tmp_path / "store").mkdir()
    (tmp_path / "data").mkdir()
    for name in ("0.parquet", "1.parquet"):
        _valid(tmp_path / "store" / name)
        (tmp_path / "data" / name).symlink_to(tmp_path / "store" / name)
    (tmp_path / "link").symlink_to("data")
    digests = {dataset.open_folder(tmp_path / name, tmp_path / "cache").digest for name in ("store", "data", "link")}
    assert len(digests) == 1
    (tmp_path / "store" / "0.parquet").write_bytes((tmp_path / "store" / "1.parquet").read_bytes())
    write_shard(tmp_path / "store" / "1.parquet", [["other text"]])
    assert dataset.open_folder(tmp_path / "link", tmp_path / "cache").digest not in digests


@pytest.mark.parametrize(
    ("inside", "seen"),
    [
        (["train/0.parquet", "train/1.parquet"], r"no \*\.parquet file \(there are some in train\)"),
        (["0.PARQUET", "1.Parquet"], r"no \*\.parquet file \(0\.PARQUET does not end in \.parquet\)"),
        (["0.parquet"], r"only 0\.parquet; it needs two shards"),
        (["0.parquet", "more/1.parquet"], r"only 0\.parquet \(there are some in more\)"),
        (["._0.parquet", "._1.parquet"], r"no \*\.parquet file; it needs two"),
        ([], r"no \*\.parquet file; it needs two"),
    ],
)
def test_a_folder_without_two_shards_says_where_others_are(tmp_path: Path, inside: list[str], seen: str):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in inside:
        (folder / name).parent.mkdir(exist_ok=True)
        _valid(folder / name)
    said = _opened(folder)
    assert re.search(seen, said or "")


@pytest.mark.parametrize("source", ["nowhere", "file", "\0", "a" * 300, "loop", "loop/inside", "file/inside"])
def test_a_source_that_is_no_folder_is_named(tmp_path: Path, source: str):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=r"data folder|is a file; give the folder"):
        dataset.open_folder(tmp_path / source, tmp_path / "cache")


_TEXTS = st.lists(st.none() | st.text(max_size=30), max_size=8)
_ANY = st.one_of(
    _TEXTS.map(lambda texts: _table(pa.array(texts, pa.string()))),
    _TEXTS.map(lambda texts: _table(pa.array(texts, pa.large_string()))),
    st.lists(_TEXTS, max_size=4).map(
        lambda groups: lambda path: write_shard(path, [[t or "" for t in g] for g in groups])
    ),
    st.lists(st.integers(-5, 5) | st.none(), max_size=4).map(lambda values: _table(pa.array(values, pa.int64()))),
    st.binary(max_size=80).map(_bytes),
    st.tuples(st.integers(0, 2**32), st.integers(1, 40)).map(lambda drawn: _flipped(*drawn)),
    st.integers(1, 600).map(lambda cut: _cut(cut)),
)


def _flipped(seed: int, num_bytes: int) -> Put:
    """A shard with some bytes replaced."""

    def put(path: Path) -> None:
        _valid(path)
        body, draw = bytearray(path.read_bytes()), random.Random(seed)
        for _ in range(num_bytes):
            body[draw.randrange(len(body))] = draw.randrange(256)
        path.write_bytes(body)

    return put


def _cut(num_bytes: int) -> Put:
    def put(path: Path) -> None:
        _valid(path)
        path.write_bytes(path.read_bytes()[:-num_bytes])

    return put


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(puts=st.lists(_ANY, min_size=1, max_size=4))
@example(puts=[_table(["a"]), _table(["a"], name="b")])
def test_any_folder_is_trained_on_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, small_text: Path, puts: list[Put]
):
    folder = tmp_path_factory.mktemp("any") / "data"
    folder.mkdir()
    (folder / "tokenizer").symlink_to(small_text / "tokenizer")  # to train one takes longer than all the rest
    for number, put in enumerate(puts):
        put(folder / f"{number}.parquet")
    _opened(folder)
