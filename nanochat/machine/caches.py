"""Folders for compiled code that no other user can write to, because what they hold is loaded and run.

By default torch and the kernel libraries keep compiled code in the shared temporary folder, under names that anybody
can guess and create first. Here each gets a folder of mode 0700 below the tool's own cache. A folder that the user
chose by the library's variable is kept. Owner and mode of every folder are checked before it is used.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from nanochat.config import ConfigError

_FOLDERS = {
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
    "QUACK_CACHE_DIR": "quack",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": "flash_attention",
    "CUTE_DSL_CACHE_DIR": "cute",
}
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_ENTER = stat.S_IXGRP | stat.S_IXOTH


def use_private_folders(cache: Path) -> None:
    """Makes the folders below the tool's cache and points the libraries there, before they look.

    Raises ConfigError naming a folder in which another user can put code.
    """
    for variable, folder in compiled_folders(cache).items():
        way_out = f"close it (chmod 700), or set {variable} to a folder that only you can write"
        try:
            _make(folder)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be made ({error.strerror}); {way_out}") from None
        reason = why_unsafe(folder)
        if reason is not None:
            raise ConfigError(f"compiled code in {folder} may come from others: {reason}; {way_out}")
        os.environ[variable] = str(folder)


def compiled_folders(cache: Path, environment: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """Each library's variable and the folder of its compiled code, links followed: the user's choice, or ours."""
    chosen = {name: environment.get(name) or cache / "compiled" / ours for name, ours in _FOLDERS.items()}
    return {name: Path(folder).expanduser().resolve() for name, folder in chosen.items()}


def why_unsafe(folder: Path) -> str | None:
    """Why others can write into a folder or put another one in its place; None if they cannot, or it is not there.

    A folder of this user's that others cannot enter protects what is below it from being replaced.
    """
    for place in reversed(folder.parents):
        if not place.exists():
            return None
        status = place.stat()
        if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
            return f"other users can rename what is in {place} (mode {stat.S_IMODE(status.st_mode):04o})"
        if status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_ENTER:
            break
    if not folder.exists():
        return None
    status = folder.stat()
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, and this is user {os.geteuid()}"
    if status.st_mode & _OTHERS_WRITE:
        return f"other users can write into it (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def _make(folder: Path) -> None:
    """Missing folders on the way are closed too."""
    for place in reversed([folder, *folder.parents]):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)
