"""A file or folder of an experiment in another form: a link, a pipe, a folder in a file's place, names that mislead."""

import contextlib
import os
import random
import socket
from pathlib import Path

from tests.fuzz.sandbox import Sandbox

_NAMES = ("owner-999999.json", "owner-999999999999999999.json", "999.json", "999999999.json", "a000-r999.json")
_NAMES += ("a000-p000099.jsonl", "compacted-999999999.jsonl", "a999", "step_999999", "\x1b[2J.json", "\u202ex.jsonl")
_NAMES += ("..jsonl", "x.damaged", "000.json.damaged", " .json", "a\nb.json", "x" * 250, ".hidden.tmp", "manifest.json")


def change_a_file(sandbox: Sandbox, name: str, rng: random.Random) -> str:
    """Puts something else in the place of a file; what."""
    target = sandbox.victim / name
    kind = rng.choice(("link", "link", "folder link", "dangling", "loop", "pipe", "folder", "socket", "gone", "closed"))
    if kind == "closed":
        target.chmod(0)
        return "closed"
    target.unlink()
    _put(target, kind, sandbox, rng)
    return kind


def change_a_folder(sandbox: Sandbox, name: str, rng: random.Random) -> str:
    """Puts something else in the place of a folder, or something into it; what."""
    target = sandbox.victim / name
    if rng.random() < 0.6:
        inside, kind = rng.choice(_NAMES), rng.choice(("link", "folder", "pipe", "file", "empty"))
        place = target / inside
        if not os.path.lexists(place):
            _put(place, kind, sandbox, rng)
        return f"{kind} {inside[:30]!r} in it"
    kind = rng.choice(("folder link", "file", "gone", "loop", "pipe"))
    target.rename(sandbox.root / "moved")
    _put(target, kind, sandbox, rng)
    return f"replaced: {kind}"


def _put(target: Path, kind: str, sandbox: Sandbox, rng: random.Random) -> None:
    match kind:
        case "link":
            target.symlink_to(sandbox.outside / "secret")
        case "folder link":
            target.symlink_to(sandbox.outside / "folder")
        case "dangling":
            target.symlink_to(sandbox.outside / "not-there")
        case "loop":
            target.symlink_to(target)
        case "pipe":
            os.mkfifo(target)
        case "folder":
            target.mkdir()
        case "socket":
            _socket(target)
        case "file":
            target.write_bytes(sandbox.original(rng.choice(sandbox.files())))
        case "empty":
            target.write_bytes(b"")


def _socket(target: Path) -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as made:  # a path can be too long for one
        made.bind(str(target))
