"""Shards are one list of row groups."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.config import ConfigError
from nanochat.data.shards import RowGroups, write_shard


def test_row_groups_are_numbered_through_all_shards_without_the_empty_ones(tmp_path: Path):
    write_shard(tmp_path / "a.parquet", [["a", "b"], [], ["c"]])
    write_shard(tmp_path / "b.parquet", [["d"]])
    groups = RowGroups([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    seen = [groups.get(number) for number in range(4)]
    assert [group and groups.read(group) for group in seen] == [["a", "b"], ["c"], ["d"], None]


def test_a_later_shard_is_not_opened_before_it_is_needed(tmp_path: Path):
    write_shard(tmp_path / "a.parquet", [["a"]])
    groups = RowGroups([tmp_path / "a.parquet", tmp_path / "missing.parquet"])
    assert groups.get(0) is not None
    with pytest.raises(ConfigError, match=r"missing\.parquet cannot be read"):
        groups.get(1)


def test_more_shards_than_stay_open_are_read_in_any_order(tmp_path: Path):
    paths = [tmp_path / f"{i}.parquet" for i in range(7)]
    for i, path in enumerate(paths):
        write_shard(path, [[str(i)]])
    groups = RowGroups(paths)
    for number in (6, 0, 3, 6, 1):
        group = groups.get(number)
        assert group is not None
        assert groups.read(group) == [str(number)]


def test_a_null_is_an_empty_document(tmp_path: Path):
    pq.write_table(pa.table({"text": pa.array([None, "b"], pa.string())}), tmp_path / "a.parquet")
    groups = RowGroups([tmp_path / "a.parquet"])
    group = groups.get(0)
    assert group is not None
    assert groups.read(group) == ["", "b"]


def test_other_columns_are_left_alone_and_large_strings_are_read(tmp_path: Path):
    table = pa.table({"url": ["u"], "text": pa.array(["t"], pa.large_string())})
    pq.write_table(table, tmp_path / "a.parquet")
    groups = RowGroups([tmp_path / "a.parquet"])
    group = groups.get(0)
    assert group is not None
    assert groups.read(group) == ["t"]


def test_a_shard_with_a_damaged_row_group_is_named(tmp_path: Path):
    path = tmp_path / "a.parquet"
    write_shard(path, [["hello " * 500]])
    body = bytearray(path.read_bytes())
    body[4:60] = b"\xff" * 56
    path.write_bytes(body)
    groups = RowGroups([path])
    group = groups.get(0)
    assert group is not None
    with pytest.raises(ConfigError, match=r"a\.parquet is damaged: row group 0"):
        groups.read(group)
