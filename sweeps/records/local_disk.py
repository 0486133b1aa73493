"""A tree of files on a mounted file system, in which no path leads anywhere else.

Anyone who can write an experiment can put a link, a pipe or a device in the place of a file. So every folder on the way
is opened by itself, without following links, and a file counts only if it is a regular one. The root is the user's own
word and can be a link.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Generator
from pathlib import Path

from sweeps.spec.errors import CorruptData

TEMPORARY = ".tmp"  # how the hidden names of half-written files end
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # without waiting for the other end of a pipe
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK)


class LocalDisk:
    """Files below one folder, by relative paths. Raises CorruptData for a link or anything that is not a file."""

    def __init__(self, root: Path, inside: str = "") -> None:
        self._root, self._inside = root, inside

    def read(self, rel: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        with os.fdopen(self.open(rel, os.O_RDONLY), "rb") as file:
            return file.read()

    def open(self, rel: str, flags: int) -> int:
        """A descriptor of a regular file; with `APPEND` missing folders and the file are made."""
        with self._place(rel, make=bool(flags & os.O_CREAT)) as (folder, name):
            try:
                descriptor = os.open(name, flags | _PLAIN, 0o644, dir_fd=folder)
            except OSError as error:
                raise _explained(error, folder, name, self._at(rel)) from None
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise _no_file(self._at(rel))

    def write(self, rel: str, data: bytes, *, lasting: bool = True) -> None:
        """Makes the file appear whole, replacing an earlier one; forced to the disk if it is to be `lasting`."""
        with self._place(rel, make=True) as (folder, name):
            temporary = self._write_temporary(folder, rel, data, lasting=lasting)
            try:
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                os.unlink(temporary, dir_fd=folder)
                if isinstance(error, IsADirectoryError):
                    raise _no_file(self._at(rel)) from None
                raise _named(error, self._at(rel)) from None
            if lasting:
                os.fsync(folder)

    def create(self, rel: str, data: bytes) -> None:
        """As `write`, but raises FileExistsError if there is anything of that name."""
        with self._place(rel, make=True) as (folder, name):
            temporary = self._write_temporary(folder, rel, data)
            try:
                os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise _named(error, self._at(rel)) from None
                # File systems without hard links still know O_EXCL: one winner, though its file grows as one looks.
                self._write_new(folder, name, rel, data)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
            os.fsync(folder)

    def names(self, rel: str) -> list[str]:
        """What is directly below a folder; nothing if there is none."""
        try:
            with self._folder(rel.split("/") if rel else [], make=False) as folder:
                return os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def stamps(self, rel: str) -> dict[str, tuple[int, int]]:
        """Size and time of change in ns of what is directly below a folder; nothing if there is none."""
        try:
            with self._folder(rel.split("/") if rel else [], make=False) as folder, os.scandir(folder) as entries:
                seen = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {name: (found.st_size, found.st_mtime_ns) for name, found in seen.items()}

    def exists(self, rel: str) -> bool:
        """Whether there is anything of that name; not behind a link."""
        try:
            with self._place(rel, make=False) as (folder, name):
                os.lstat(name, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError, CorruptData):
            return False
        return True

    def delete(self, rel: str) -> None:
        """Removes a file or a link; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._place(rel, make=False) as (folder, name):
            try:
                os.unlink(name, dir_fd=folder)
            except OSError as error:
                if stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                    raise _no_file(self._at(rel)) from None
                raise _named(error, self._at(rel)) from None

    def delete_tree(self, rel: str) -> None:
        """Removes a folder and all below it, of links the links alone; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError), self._place(rel, make=False) as (folder, name):
            if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
                raise _no_file(self._at(rel))
            shutil.rmtree(name, dir_fd=folder)

    @contextlib.contextmanager
    def _place(self, rel: str, *, make: bool) -> Generator[tuple[int, str]]:
        """The descriptor of the folder that a path leads to, and the name in it.

        Raises CorruptData if something else is in the place of a folder.
        """
        *folders, name = rel.split("/")
        try:
            with self._folder(folders, make=make) as folder:
                yield folder, name
        except NotADirectoryError as error:
            if error.filename in (None, str(self._root)):  # the user's own word
                raise
            raise _no_file(Path(error.filename)) from None

    @contextlib.contextmanager
    def _folder(self, parts: list[str], *, make: bool) -> Generator[int]:
        if make:
            self._root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._root, _FOLDER)
        try:
            way = [*self._inside.split("/"), *parts] if self._inside else parts
            for number, part in enumerate(way):
                below = self._enter(descriptor, part, "/".join(way[: number + 1]), make=make)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    def _enter(self, folder: int, name: str, way: str, *, make: bool) -> int:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=folder)
        try:
            return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        except OSError as error:
            raise _explained(error, folder, name, self._root / way) from None

    def _at(self, rel: str) -> Path:
        return self._root / self._inside / rel

    def _write_temporary(self, folder: int, rel: str, data: bytes, *, lasting: bool = True) -> str:
        name = f".{rel.rpartition('/')[2]}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"
        self._write_new(folder, name, rel, data, lasting=lasting)
        return name

    def _write_new(self, folder: int, name: str, rel: str, data: bytes, *, lasting: bool = True) -> None:
        """Writes a file that was not there, and forces it to the disk if asked; removes it if that fails."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN
        try:
            with os.fdopen(os.open(name, flags, 0o666, dir_fd=folder), "wb") as file:
                file.write(data)
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
        except FileExistsError as error:
            raise _named(error, self._at(rel)) from None
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise _named(error, self._at(rel)) from None  # a full disk names no file by itself


def _explained(error: OSError, folder: int, name: str, path: Path) -> Exception:
    """The error with its path, or that there is a link."""
    with contextlib.suppress(OSError):
        if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
            return _no_file(path)
    return _no_file(path) if error.errno == errno.ENXIO else _named(error, path)


def _named(error: OSError, path: Path) -> OSError:
    return OSError(error.errno, error.strerror, str(path))


def _no_file(path: Path) -> CorruptData:
    return CorruptData(
        f"{path} is a link, or not the file or folder that belongs there; remove it if it is not yours, or put in its "
        f"place what it leads to"
    )
