"""A tree of small files on any storage: a local folder, or s3://, gs:// and the like through pyarrow.

A file appears whole or not at all: locally by a temporary name, fsync and rename, on object storage because a put is
one act. So a reader never sees half a file that we wrote, whatever was killed. Temporary names start with a dot and are
invisible to `list`.

`create` is exclusive. On a local disk that holds against any process (a hard link has exactly one winner). Object
stores reached through pyarrow know no exclusive put, so there it is a look and a put: safe for whoever holds the
experiment's lock, which is how it is used.
"""

import contextlib
import errno
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from sweeps.records.arrow import arrow_fs
from sweeps.spec.errors import UsageError

_WITH_BUCKETS = ("s3", "gs", "gcs", "abfs", "abfss")
_TEMPORARY = ".tmp"  # how the hidden names of half-written files end


class Store:
    """Files below one root, addressed by relative paths with forward slashes."""

    def __init__(self, root: str) -> None:
        self.uri = _normal_root(root)
        self._disk: _Disk = ObjectStorage.open(self.uri) if "://" in self.uri else _LocalDisk(Path(self.uri))

    def read(self, rel: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        return self._disk.read(_checked(rel))

    def write(self, rel: str, data: bytes) -> None:
        """Makes the file appear whole, replacing an earlier one; parent folders come by themselves."""
        self._disk.write(_checked(rel), data)

    def create(self, rel: str, data: bytes) -> None:
        """As `write`, but raises FileExistsError where the file is there already."""
        self._disk.create(_checked(rel), data)

    def list(self, rel: str = "") -> "list[str]":
        """The names of files and folders directly below `rel`, sorted; empty where there is no such folder."""
        return sorted(n for n in self._disk.names(_checked(rel) if rel else "") if not n.startswith("."))

    def everything(self) -> "list[str]":
        """The names of all files and folders directly below the root, hidden ones too, but for half-written files."""
        return sorted(n for n in self._disk.names("") if not (n.startswith(".") and n.endswith(_TEMPORARY)))

    def exists(self, rel: str) -> bool:
        """Whether there is a file or folder of that name."""
        return self._disk.exists(_checked(rel))

    def delete(self, rel: str) -> None:
        """Removes a file; one that is not there is fine."""
        self._disk.delete(_checked(rel))

    def delete_tree(self, rel: str) -> None:
        """Removes a folder and all below it; one that is not there is fine."""
        self._disk.delete_tree(_checked(rel))

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
    def write(self, rel: str, data: bytes) -> None: ...
    def create(self, rel: str, data: bytes) -> None: ...
    def names(self, rel: str) -> list[str]: ...
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


class _LocalDisk:
    """A folder on a mounted file system."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, rel: str) -> bytes:
        return (self._root / rel).read_bytes()

    def write(self, rel: str, data: bytes) -> None:
        target = self._root / rel
        temporary = self._write_temporary(target, data)
        try:
            os.replace(temporary, target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)

    def create(self, rel: str, data: bytes) -> None:
        target = self._root / rel
        temporary = self._write_temporary(target, data)
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            self._create_without_links(target, data)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def names(self, rel: str) -> list[str]:
        try:
            return os.listdir(self._root / rel)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self, rel: str) -> bool:
        return (self._root / rel).exists()

    def delete(self, rel: str) -> None:
        (self._root / rel).unlink(missing_ok=True)

    def delete_tree(self, rel: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._root / rel)

    @staticmethod
    def _write_temporary(target: Path, data: bytes) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY}"
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(target)) from None  # a full disk names no file by itself
        return temporary

    @staticmethod
    def _create_without_links(target: Path, data: bytes) -> None:
        """File systems without hard links still know O_EXCL: one winner, though its file grows before our eyes."""
        with open(target, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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

    def write(self, rel: str, data: bytes) -> None:
        """Replaces a file as a whole: by one put, or by a temporary name and a move."""
        target = self._at(rel)
        if self._fs.type_name in self._ONE_PUT:
            self._put(target, data)
            return
        folder, _, name = target.rpartition("/")
        temporary = f"{folder}/.{name}.{secrets.token_hex(8)}{_TEMPORARY}"
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
