"""Parquet shards as one long list of row groups.

A row group is what a lane of the loader owns, so the shards of a corpus are read as one list of row groups, numbered
from 0; empty ones are left out. A corpus can have thousands of shards: a footer is read only when a row group that far
is asked for, and only the files read last stay open.

Shards come from anywhere, so whatever is wrong with one is a sentence that names it.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.config import ConfigError

TEXT_COLUMN = "text"
SHARD_SUFFIX = ".parquet"
_MAX_OPEN_FILES = 4
_BATCH_ROWS = 256


@dataclass(frozen=True)
class RowGroup:
    """Where a row group is and how many documents it holds."""

    shard: Path
    index: int
    num_rows: int


def find_shards(folder: Path) -> list[Path]:
    """The shards of a folder in order of their names, at least two. Raises ConfigError.

    Hidden files, such as `._a.parquet` from a Mac, are no shards, and neither is anything that ends otherwise, such as
    half a download.
    """
    try:
        visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        paths = [path for path in visible if path.name.endswith(SHARD_SUFFIX)]
    except FileNotFoundError:
        raise ConfigError(
            f"the data folder {folder} does not exist; give a folder of Parquet shards, or no folder"
        ) from None
    except NotADirectoryError:
        raise ConfigError(f"{folder} is a file; give the folder of Parquet shards that it is in") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"the data folder {str(folder)!r} cannot be read: {_brief(error)}") from None
    if len(paths) < 2:
        seen = "no *.parquet file" if not paths else f"only {paths[0].name}"
        raise ConfigError(
            f"the data folder {folder} holds {seen}{_hint(visible)}; it needs two shards or more, the last one is for "
            "validation"
        )
    return paths


def _hint(visible: Sequence[Path]) -> str:
    """Where the shards can be that are missing."""
    for path in visible:
        with contextlib.suppress(OSError):
            if path.is_dir() and any(inner.name.endswith(SHARD_SUFFIX) for inner in path.iterdir()):
                return f" (there are some in {path.name})"
    others = next(
        (path.name for path in visible if path.name.lower().endswith(SHARD_SUFFIX) and path.suffix != SHARD_SUFFIX),
        None,
    )
    return f" ({others} does not end in {SHARD_SUFFIX})" if others else ""


def write_shard(path: Path, row_groups: Sequence[Sequence[str]]) -> None:
    """One Parquet file with a `text` column; each sequence of documents becomes a row group."""
    schema = pa.schema([(TEXT_COLUMN, pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for texts in row_groups:
            writer.write_table(
                pa.table([pa.array(texts, pa.string())], schema=schema), row_group_size=max(1, len(texts))
            )


def open_shard(path: Path) -> pq.ParquetFile:
    """The open file. Raises ConfigError if it cannot be read as Parquet or has no column of text."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ConfigError(f"{path} {_kind_of(path)}; remove it, or put the shard there")
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
    except (OSError, ValueError, NotImplementedError, pa.ArrowException) as error:
        raise ConfigError(f"{path} cannot be read as Parquet ({_brief(error)}); fetch this shard again") from error
    columns = schema.names
    if columns.count(TEXT_COLUMN) != 1:
        seen = f"{columns.count(TEXT_COLUMN)} columns" if TEXT_COLUMN in columns else "no column"
        others = "" if TEXT_COLUMN in columns else f", only {', '.join(columns) or 'none at all'}"
        raise ConfigError(
            f"{path} has {seen} {TEXT_COLUMN!r}{others}; "
            f"give the one column that holds the documents the name {TEXT_COLUMN!r}"
        )
    kind = schema.field(TEXT_COLUMN).type
    if not _is_text(kind):
        raise ConfigError(f"{path}: its column {TEXT_COLUMN!r} holds {kind}, not text; write it as a column of strings")
    return file


def _is_text(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_view = getattr(pa.types, "is_string_view", lambda _: False)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or is_view(kind)


def _kind_of(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink()}, which does not exist"
    if path.is_dir():
        return "is a folder, not a shard"
    return "is not a regular file" if path.exists() else "does not exist"


def _brief(error: BaseException) -> str:
    """An error's first line. What the system says comes without the path, which the sentence names already."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said.strip().partition("\n")[0].rstrip(".") or type(error).__name__


def num_documents(file: pq.ParquetFile) -> int:
    """How many rows a shard has."""
    return file.metadata.num_rows


def num_text_bytes(file: pq.ParquetFile) -> int:
    """About how many bytes of text a shard holds, from its footer alone."""
    metadata = file.metadata
    place = next(
        (i for i in range(metadata.num_columns) if metadata.schema.column(i).path == TEXT_COLUMN),
        None,
    )
    if place is None:
        return 0
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    return sum(group.column(place).total_uncompressed_size for group in groups)


def has_text(path: Path, file: pq.ParquetFile) -> bool:
    """True if any document of an open shard has a character. Raises ConfigError as `RowGroups.read` does."""
    return any(text for texts in _batches(path, file) for text in texts)


def _batches(path: Path, file: pq.ParquetFile) -> Iterator[list[str]]:
    """The documents from the start of a shard, some at a time."""
    try:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[TEXT_COLUMN]):
            yield _texts(batch.column(0), path, "the shard")
    except (OSError, NotImplementedError, pa.ArrowException) as error:
        raise ConfigError(f"{path} is damaged: it cannot be read ({_brief(error)}); fetch this shard again") from error


def _texts(column: pa.Array | pa.ChunkedArray, path: Path, where: str) -> list[str]:
    """Documents as Python strings; a null counts as an empty document."""
    try:
        return [text or "" for text in column.to_pylist()]
    except UnicodeDecodeError:
        row = next(row for row, value in enumerate(column) if not _is_utf8(value))
        raise ConfigError(
            f"{path}: document {row} of {where} is not valid UTF-8; write this shard again with valid text"
        ) from None


def _is_utf8(value: pa.Scalar) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


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
        """The documents of a row group; a null counts as an empty document.

        Raises ConfigError if the shard is damaged or holds what is not UTF-8.
        """
        try:
            table = self._file(group.shard).read_row_group(group.index, columns=[TEXT_COLUMN])
        except (OSError, NotImplementedError, pa.ArrowException) as error:
            raise ConfigError(
                f"{group.shard} is damaged: row group {group.index} cannot be read ({_brief(error)}); "
                "fetch this shard again"
            ) from error
        return _texts(table.column(TEXT_COLUMN), group.shard, f"row group {group.index}")

    def _file(self, shard: Path) -> pq.ParquetFile:
        file = self._open.get(shard)
        if file is None:
            file = open_shard(shard)
            self._open[shard] = file
            if len(self._open) > _MAX_OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(shard)
        return file
