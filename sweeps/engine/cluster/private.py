"""What keeps a private cluster private: its own token, ports on loopback, a session that only its user can enter.

By itself Ray writes a token that everybody can read into the home folder, listens on all interfaces, and opens its
session folder to everybody. Another user of the host could submit a job that runs as this one, or put a socket in the
place of a live one. Here the token exists in the environment of the cluster's processes alone, which only their user
can read. The session lies one level below a folder of mode 0700, because Ray changes the mode of the folder that it is
given.

A session is removed at the end of its launch, by the watchdog if the launcher was killed. If both were killed, the
next launch removes it: the launcher holds a lock on the folder, which the kernel releases with the process.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path

from sweeps.engine import ray_private
from sweeps.spec.errors import UsageError

_PREFIX = "nss-"  # short: a socket's path below it has 107 bytes at most
_BELOW = "r"
# The longest path that Ray makes below the folder it is given, and what mkdtemp appends to the prefix.
_LONGEST_SOCKET = f"/{_BELOW}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
MAX_SOCKET_BYTES = 103  # Ray's own limit
_NUM_RANDOM = 8


@contextlib.contextmanager
def private_settings() -> Generator[None]:
    """For the time of a private cluster: a new token that Ray asks for and writes nowhere, loopback for all ports.

    Whatever the user has set for clusters elsewhere is put back afterwards.
    """
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    own = token | ray_private.LOOPBACK_ONLY
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        ray_private.read_settings_again()
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        ray_private.read_settings_again()


@contextlib.contextmanager
def session_folder() -> Generator[tuple[Path, Path]]:
    """A new folder of mode 0700 and the one inside it for Ray. Its removal is the watchdog's, or the next launch's."""
    parent = default_session_parent()
    remove_abandoned(parent)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(held, fcntl.LOCK_EX)
        if folder.exists():  # else another launch took it for abandoned before it was locked
            break
        os.close(held)
    try:
        yield folder, folder / _BELOW
    finally:
        os.close(held)


def default_session_parent() -> Path:
    """Where sessions of private clusters are on this host: below TMPDIR if that is fit for it."""
    return session_parent([tempfile.gettempdir(), "/tmp", "/var/tmp"])


def session_parent(candidates: list[str]) -> Path:
    """The first folder in which Ray's socket paths are short enough and no other user can rename what is ours.

    Raises UsageError if there is none.
    """
    refusals: list[str] = []
    for candidate in dict.fromkeys(candidates):
        reason = _why_not(candidate)
        if reason is None:
            return Path(candidate)
        refusals.append(f"{candidate} {reason}")
    raise UsageError(f"no folder for Ray's session: {'; '.join(refusals)}; set TMPDIR to a short path of yours")


def _why_not(folder: str) -> str | None:
    longest = len(os.fsencode(folder)) + len(f"/{_PREFIX}") + _NUM_RANDOM + len(_LONGEST_SOCKET)
    if longest > MAX_SOCKET_BYTES:
        return f"is {longest - MAX_SOCKET_BYTES} bytes too long for a socket's path"
    try:
        status = os.stat(folder)
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "cannot be written"
    shared = stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    if shared and not status.st_mode & stat.S_ISVTX:
        return "lets other users rename what is in it (chmod +t)"
    return None


def remove_abandoned(parent: Path) -> None:
    """Removes sessions of this user whose launchers are gone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, no folder, or in use
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(held).st_uid == os.getuid():
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)
