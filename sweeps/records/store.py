"""A tree of small files on any storage: a local folder, or s3://, gs:// and the like through pyarrow.

A file appears whole or not at all: locally by a temporary name, fsync and rename, on object storage because a put is
one act. So a reader never sees half a file that we wrote, whatever was killed. Temporary names start with a dot and are
invisible to `list`.

`create` is exclusive. On a local disk that holds against any process (a hard link has exactly one winner). Object
stores reached through pyarrow know no exclusive put, so there it is a look and a put: safe for the process that holds
the experiment's lock, which is how it is used.
"""

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from sweeps.records.arrow import arrow_fs
from sweeps.records.local_disk import APPEND, TEMPORARY, LocalDisk
from sweeps.spec.errors import UsageError

_WITH_BUCKETS = ("s3", "gs", "gcs", "abfs", "abfss")


class Store:
    """Files below one root, addressed by relative paths with forward slashes."""

    def __init__(self, root: str, inside: str = "") -> None:
        """`root` is the user's word, of which links are followed; `inside` is a folder below it, of which none are."""
        self._root, self._inside = _normal_root(root), inside
        self.uri = f"{self._root.rstrip('/')}/{_checked(inside)}" if inside else self._root
        is_remote = "://" in self.uri
        self._disk: _Disk = ObjectStorage.open(self.uri) if is_remote else LocalDisk(Path(self._root), inside)

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
    def create(self, rel: str, data: bytes) -> None: ...
    def names(self, rel: str) -> list[str]: ...
    def stamps(self, rel: str) -> dict[str, tuple[int, int]]: ...
    def exists(self, rel: str) -> bool: ...
    def delete(self, rel: str) -> None: ...
    def delete_tree(self, rel: str) -> None: ...


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


class ObjectStorage:
    """Any pyarrow file system. Object stores put a file in one act; others get a temporary name and a move."""

    _ONE_PUT = ("s3", "gcs", "abfs")

    def __init__(self, filesystem: Any, base: str) -> None:
        self._fs, self._base = filesystem, base.rstrip("/")

    @classmethod
    def open(cls, uri: str) -> "ObjectStorage":
        """Opens an address like s3://bucket/path. Raises UsageError if pyarrow does not know it or cannot reach it."""
        try:
            filesystem, base = arrow_fs().FileSystem.from_uri(uri)  # the constructors would ignore AWS_ENDPOINT_URL
        except (ValueError, NotImplementedError, OSError) as error:  # OSError: S3 is asked where the bucket lies
            raise UsageError(
                f"storage {uri} cannot be opened: {error}; give a folder or an address like s3://bucket/path"
            ) from error
        return cls(filesystem, base)

    def read(self, rel: str) -> bytes:
        """Returns a whole file. Raises FileNotFoundError."""
        with self._fs.open_input_stream(self._at(rel)) as stream:
            return stream.read()

    def write(self, rel: str, data: bytes, *, lasting: bool = True) -> None:
        """Replaces a file as a whole: by one put, or by a temporary name and a move. It lasts either way."""
        target = self._at(rel)
        if self._fs.type_name in self._ONE_PUT:
            self._put(target, data)
            return
        folder, _, name = target.rpartition("/")
        temporary = f"{folder}/.{name}.{secrets.token_hex(8)}{TEMPORARY}"
        self._fs.create_dir(folder, recursive=True)
        self._put(temporary, data)
        self._fs.move(temporary, target)

    def create(self, rel: str, data: bytes) -> None:
        """Writes a new file. Two processes at the same moment may both succeed: no exclusive put is offered."""
        if self.exists(rel):
            raise FileExistsError(errno.EEXIST, "exists already", self._at(rel))
        self.write(rel, data)

    def names(self, rel: str) -> list[str]:
        """Returns the names in a folder, none if it does not exist."""
        infos = self._fs.get_file_info(arrow_fs().FileSelector(self._at(rel), allow_not_found=True))
        return [info.base_name for info in infos]

    def stamps(self, rel: str) -> dict[str, tuple[int, int]]:
        """Returns size and time of change of each file in a folder."""
        infos = self._fs.get_file_info(arrow_fs().FileSelector(self._at(rel), allow_not_found=True))
        return {info.base_name: (info.size or 0, info.mtime_ns or 0) for info in infos if info.is_file}

    def exists(self, rel: str) -> bool:
        """True for a file or a folder."""
        return self._fs.get_file_info(self._at(rel)).type != arrow_fs().FileType.NotFound

    def delete(self, rel: str) -> None:
        """Deletes a file if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self._at(rel))

    def delete_tree(self, rel: str) -> None:
        """Deletes a folder with everything in it if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_dir(self._at(rel))

    def _at(self, rel: str) -> str:
        return f"{self._base}/{rel}" if rel else self._base

    def _put(self, path: str, data: bytes) -> None:
        with self._fs.open_output_stream(path) as stream:
            stream.write(data)
