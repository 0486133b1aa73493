"""A tree of small files on any storage: a local folder, or a bucket (s3://, gs://, abfs://).

A file appears whole or not at all: locally by a temporary name, fsync and rename, on object storage because a put is
one act, and so is a get. So a reader never sees half a file that we wrote, whatever was killed. Temporary names start
with a dot and are invisible to `list`.

`create` is exclusive against any process: on a local disk a hard link has exactly one winner, on object storage a
conditional put. `replace` is a bucket's alone: no disk compares and sets.
"""

import os
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from sweeps.records.buckets import AZURE, GOOGLE, S3, open_bucket
from sweeps.records.local_disk import APPEND, TEMPORARY, LocalDisk
from sweeps.records.object_storage import ObjectStorage
from sweeps.spec.errors import UsageError

_WITH_BUCKETS = (*S3, *GOOGLE, *AZURE)


class Store:
    """Files below one root, addressed by relative paths with forward slashes."""

    def __init__(self, root: str, inside: str = "") -> None:
        """`root` is the user's word, of which links are followed; `inside` is a folder below it, of which none are."""
        self._root, self._inside = _normal_root(root), inside
        self.uri = f"{self._root.rstrip('/')}/{_checked(inside)}" if inside else self._root
        self._disk: _Disk = LocalDisk(Path(self._root), inside) if self.is_local else _bucket_at(self.uri)

    def below(self, rel: str) -> "Store":
        """The files below one of the folders, which need not be there yet."""
        return Store(self._root, f"{self._inside}/{rel}" if self._inside else rel)

    def read(self, rel: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        return self._disk.read(_checked(rel))

    def write(self, rel: str, data: bytes, *, lasting: bool = True) -> None:
        """Makes the file appear whole, replacing an earlier one; parent folders come by themselves.

        One that is not `lasting` can be empty or gone after a loss of power: for what can be made again.
        """
        self._disk.write(_checked(rel), data, lasting=lasting)

    def create(self, rel: str, data: bytes) -> None:
        """As `write`, but raises FileExistsError where the file is there already."""
        self._disk.create(_checked(rel), data)

    def list(self, rel: str = "") -> "list[str]":
        """The names of files and folders directly below `rel`, sorted; empty if there is no such folder."""
        return sorted(n for n in self._disk.names(_checked(rel) if rel else "") if not n.startswith("."))

    def stamps(self, rel: str = "") -> dict[str, tuple[int, int]]:
        """Size in bytes and time of change in ns of what is directly below `rel`; empty if there is no such folder."""
        return {
            n: stamp
            for n, stamp in sorted(self._disk.stamps(_checked(rel) if rel else "").items())
            if not n.startswith(".")
        }

    def everything(self) -> "list[str]":
        """The names of all files and folders directly below the root, hidden ones too, but for half-written files."""
        return sorted(n for n in self._disk.names("") if not (n.startswith(".") and n.endswith(TEMPORARY)))

    def exists(self, rel: str) -> bool:
        """Whether there is a file or folder of that name."""
        return self._disk.exists(_checked(rel))

    def delete(self, rel: str) -> None:
        """Removes a file; one that is not there is fine."""
        self._disk.delete(_checked(rel))

    def delete_tree(self, rel: str) -> None:
        """Removes a folder and all below it; one that is not there is fine."""
        self._disk.delete_tree(_checked(rel))

    @property
    def bucket(self) -> ObjectStorage:
        """The same files on object storage, with what only that can do. Raises ValueError on a disk."""
        if not isinstance(self._disk, ObjectStorage):
            raise ValueError(f"{self.uri} is on a disk")
        return self._disk

    def open_log(self, rel: str) -> int:
        """A descriptor that appends to a file, which is made if it is not there. Local storage only."""
        return self._open(rel, APPEND)

    def open_file(self, rel: str) -> int:
        """A descriptor to read a file by. Raises FileNotFoundError. Local storage only."""
        return self._open(rel, os.O_RDONLY)

    def _open(self, rel: str, flags: int) -> int:
        if not isinstance(self._disk, LocalDisk):
            raise ValueError(f"{self.uri_of(rel)} is on object storage, which can neither append nor seek")
        return self._disk.open(_checked(rel), flags)

    def local_path(self, rel: str = "") -> Path | None:
        """Where the file lies on this machine's disks; None on remote storage."""
        return Path(self.uri) / rel if self.is_local else None

    def uri_of(self, rel: str) -> str:
        """The absolute address of a file below the root."""
        return f"{self.uri.rstrip('/')}/{rel}"

    @property
    def is_local(self) -> bool:
        """Whether the files lie on a mounted disk."""
        return "://" not in self.uri


class _Disk(Protocol):
    """What a kind of storage must be able to do."""

    def read(self, rel: str) -> bytes: ...
    def write(self, rel: str, data: bytes, *, lasting: bool = True) -> None: ...
    def create(self, rel: str, data: bytes) -> object: ...
    def names(self, rel: str) -> list[str]: ...
    def stamps(self, rel: str) -> dict[str, tuple[int, int]]: ...
    def exists(self, rel: str) -> bool: ...
    def delete(self, rel: str) -> None: ...
    def delete_tree(self, rel: str) -> None: ...


def _bucket_at(uri: str) -> ObjectStorage:
    bucket, base = open_bucket(uri)
    return ObjectStorage(bucket, base, uri)


def _normal_root(root: str) -> str:
    if root.startswith("file://"):
        parts = urlsplit(root)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise UsageError(f"{root} is no address of a file here; write file:///absolute/path, or the path alone")
        root = unquote(parts.path)
    if "://" in root:
        parts = urlsplit(root)
        if "@" in parts.netloc:  # addresses are stored, shown and logged
            raise UsageError(
                f"the storage address {parts.scheme}://...@{parts.netloc.rpartition('@')[2]} holds credentials; leave "
                f"them out, they come from the environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            )
        if not parts.netloc and parts.scheme in _WITH_BUCKETS:
            raise UsageError(f"the storage address {root} names no bucket; write {parts.scheme}://bucket/path")
        if parts.query or parts.fragment:
            raise UsageError(
                f"the storage address {root} has a '?' or '#' part, behind which no experiment can lie; leave it out, "
                f"settings come from the environment (for S3: AWS_DEFAULT_REGION, AWS_ENDPOINT_URL)"
            )
    return root.rstrip("/") if "://" in root else os.path.abspath(os.path.expanduser(root))


def _checked(rel: str) -> str:
    parts = rel.split("/")
    if rel.startswith("/") or any(p in ("", ".", "..") for p in parts):
        raise ValueError(f"a path inside a store must be relative and plain, got {rel!r}")
    return rel
