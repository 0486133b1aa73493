"""What reading somebody else's files may not do, seen from below: by the interpreter's audit and by the kernel.

The interpreter reports every signal, process, connection and change of a file that Python asks for. What compiled
libraries do it does not see, so the kernel watches the files that nothing may even open.
"""

import ctypes
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any

_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.mkdir", "os.chmod", "os.chown")
_CHANGES += ("os.truncate", "os.utime", "os.setxattr", "shutil.rmtree", "shutil.move", "shutil.copyfile")
_FORBIDDEN = ("os.kill", "os.killpg", "signal.pthread_kill", "subprocess.Popen", "os.system", "os.exec", "os.fork")
_FORBIDDEN += ("os.posix_spawn", "socket.connect", "socket.bind", "ctypes.dlopen", "code.__new__")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_ALL_EVENTS = 0x00000FFF
_NONBLOCK = 0o4000


class Guard:
    """Collects what was forbidden while it is `on`. One a process: an audit hook cannot be taken back."""

    def __init__(self, allowed: tuple[Path, ...], watched: Path) -> None:
        self.on = False
        self._allowed, self._seen = tuple(map(str, allowed)), list[str]()
        self._watch = _Watch(watched)
        sys.addaudithook(self._audit)
        send = signal.pidfd_send_signal
        signal.pidfd_send_signal = lambda *args: self._note("pidfd_send_signal", args) or send(*args)

    def seen(self) -> list[str]:
        """What was seen since the last call."""
        found, self._seen = self._seen + self._watch.events(), []
        return found

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on:
            self._seen.append(f"{event}{args!r}"[:300])

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _FORBIDDEN:
            self._note(event, args)
        elif event == "open":
            path, _, flags = args
            if (
                isinstance(path, str | bytes)
                and isinstance(flags, int)
                and not self._may_open(os.fsdecode(path), flags)
            ):
                self._note(event, args)
        elif event in _CHANGES and not self._may_change(args):
            self._note(event, args)

    def _may_open(self, path: str, flags: int) -> bool:
        if not flags & _WRITING:
            return True
        return (path.startswith("/") and self._is_inside(path)) or path == os.devnull or "/" not in path

    def _may_change(self, args: tuple[Any, ...]) -> bool:
        """Names without a folder are relative to a folder that was opened, link by link, before."""
        paths = [os.fsdecode(arg) for arg in args if isinstance(arg, str | bytes)]
        return all("/" not in path or self._is_inside(path) for path in paths)

    def _is_inside(self, path: str) -> bool:
        return f"{os.path.realpath(path)}/".startswith(tuple(f"{folder}/" for folder in self._allowed))


class _Watch:
    """The kernel's report of every access to the files below a folder."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(_NONBLOCK)
        for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            if libc.inotify_add_watch(self._handle, str(place).encode(), _ALL_EVENTS) < 0:
                raise OSError(ctypes.get_errno(), "this system does not report access to files", str(place))

    def events(self) -> list[str]:
        """What was touched since the last call."""
        found: list[str] = []
        while True:
            try:
                data = os.read(self._handle, 2**16)
            except BlockingIOError:
                return found
            place = 0
            while place < len(data):
                _, mask, _, length = struct.unpack_from("iIII", data, place)
                name = data[place + 16 : place + 16 + length].rstrip(b"\0").decode(errors="replace")
                found.append(f"the kernel saw access {mask:#x} to {name or 'the folder'} outside")
                place += 16 + length
