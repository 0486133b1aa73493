"""What is made from text and kept: built once, and there only when it is whole.

A folder is built under a temporary name and renamed, so a folder of the final name is whole. Processes that start
together wait for one of them to build; the lock only saves work, the rename alone makes it safe. What a killed builder
left is removed by the next one on its host: who holds the lock knows that no other process of this host builds. Whether
a builder on another host still lives is not known, so its folder stays. Age decides nothing, because clocks jump.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from nanochat.config import ConfigError
from nanochat.files import sync


def cache_folder() -> Path:
    """Where made corpora and tokenizers are: NANOCHAT_CACHE, else nanochat-sweep in the user's cache folder."""
    if own := os.environ.get("NANOCHAT_CACHE"):
        return Path(own).expanduser()
    general = os.environ.get("XDG_CACHE_HOME")
    return (Path(general) if general else Path.home() / ".cache") / "nanochat-sweep"


def built_once(root: Path, name: str, *, is_whole: Callable[[Path], bool], build: Callable[[Path], None]) -> Path:
    """The folder `root/name`, built if it is missing or not whole. Raises ConfigError if it cannot be written."""
    folder = root / name
    if is_whole(folder):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with only_builder(root / f".{name}.lock") as is_alone:
            if not is_whole(folder):
                _clear_away(root, name, folder, is_alone=is_alone)
                temporary = _temporary(root, name)
                try:
                    build(temporary)
                    move_into_place(temporary, folder, is_whole)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"the cache folder {root} cannot be written ({error.strerror or error}); "
            "set NANOCHAT_CACHE to a folder with room that you may write"
        ) from error
    return folder


@contextlib.contextmanager
def only_builder(lock: Path) -> Iterator[bool]:
    """Holds a lock that the kernel frees when its process dies. False: locks are not supported, so there is none."""
    with lock.open("w") as handle:
        is_alone = False
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
            is_alone = True
        yield is_alone


def move_into_place(temporary: Path, folder: Path, is_whole: Callable[[Path], bool]) -> None:
    """Makes a built folder appear under its name; if another process was faster, that one's stays."""
    for path in sorted(temporary.rglob("*"), reverse=True):
        sync(path)
    sync(temporary)
    try:
        temporary.rename(folder)
    except OSError:
        if not is_whole(folder):
            raise
    sync(folder.parent)


def _own_prefix(name: str) -> str:
    return f".{name}@{socket.gethostname()}-"


def _temporary(root: Path, name: str) -> Path:
    """A new folder, open to whom the user's umask lets in, as `mkdtemp` makes none."""
    folder = root / f"{_own_prefix(name)}{secrets.token_hex(8)}"
    folder.mkdir()
    return folder


def _clear_away(root: Path, name: str, folder: Path, *, is_alone: bool) -> None:
    """Removes a damaged folder of the final name, and what killed builders of this host left."""
    leftovers = [path for path in root.iterdir() if is_alone and path.name.startswith(_own_prefix(name))]
    if folder.exists():
        damaged = _temporary(root, name) / "damaged"
        folder.rename(damaged)
        leftovers.append(damaged.parent)
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
