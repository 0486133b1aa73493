"""Parquet shards as one long list of row groups.

A row group is what a lane of the loader owns, so the shards of a corpus are read as one list of row groups, numbered
from 0; empty ones are left out. A corpus may have thousands of shards: a footer is read only when somebody asks for a
row group that far, and only the files read last stay open.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.config import ConfigError

TEXT_COLUMN = "text"
_MAX_OPEN_FILES = 4


@dataclass(frozen=True)
class RowGroup:
    """Where a row group lies and how many documents it holds."""

    shard: Path
    index: int
    num_rows: int


def write_shard(path: Path, row_groups: Sequence[Sequence[str]]) -> None:
    """One Parquet file with a `text` column; each sequence of documents becomes a row group."""
    schema = pa.schema([(TEXT_COLUMN, pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for texts in row_groups:
            writer.write_table(
                pa.table([pa.array(texts, pa.string())], schema=schema), row_group_size=max(1, len(texts))
            )


def open_shard(path: Path) -> pq.ParquetFile:
    """The open file. Raises ConfigError if it is no Parquet file or has no `text` column."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} cannot be read as Parquet ({error}); fetch this shard again") from error
    columns = file.schema_arrow.names
    if TEXT_COLUMN not in columns:
        raise ConfigError(
            f"{path} has no column {TEXT_COLUMN!r}, only {', '.join(columns) or 'none at all'}; "
            f"rename the column that holds the documents to {TEXT_COLUMN!r}"
        )
    return file


class RowGroups:
    """The row groups of some shards, in order. Read by one thread at a time."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = tuple(shards)
        self._known: list[RowGroup] = []
        self._num_shards_seen = 0
        self._open: OrderedDict[Path, pq.ParquetFile] = OrderedDict()

    def get(self, number: int) -> RowGroup | None:
        """The row group of this number; None past the last one."""
        while number >= len(self._known) and self._num_shards_seen < len(self._shards):
            shard = self._shards[self._num_shards_seen]
            metadata = self._file(shard).metadata
            for index in range(metadata.num_row_groups):
                if num_rows := metadata.row_group(index).num_rows:
                    self._known.append(RowGroup(shard, index, num_rows))
            self._num_shards_seen += 1
        return self._known[number] if number < len(self._known) else None

    def read(self, group: RowGroup) -> list[str]:
        """The documents of a row group; a null counts as an empty document."""
        try:
            table = self._file(group.shard).read_row_group(group.index, columns=[TEXT_COLUMN])
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(
                f"{group.shard} is damaged: row group {group.index} cannot be read ({error}); fetch this shard again"
            ) from error
        texts = table.column(TEXT_COLUMN).to_pylist()
        return [text or "" for text in texts]

    def _file(self, shard: Path) -> pq.ParquetFile:
        file = self._open.get(shard)
        if file is None:
            file = open_shard(shard)
            self._open[shard] = file
            if len(self._open) > _MAX_OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(shard)
        return file
