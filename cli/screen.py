"""A few lines at the bottom of a terminal that are painted over and over, and lines of text that scroll by above them.

Each painting is one write: the cursor goes up, every line is written over the old one and its rest erased. Nothing is
cleared first, so nothing flickers. The cursor is never hidden, so a killed program leaves a terminal that works.
The file descriptor is a copy of its own: whatever happens to stdout or stderr meanwhile, the terminal stays reachable,
from any thread.
"""

import contextlib
import os
import re
import threading
from collections.abc import Sequence
from typing import TextIO

from sweeps.spec.visible import visible

_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Screen:
    """The bottom of the terminal that `stream` writes to."""

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        self._descriptor = os.dup(stream.fileno())
        self._encoding = stream.encoding or "ascii"
        self._lock = threading.Lock()
        self._painted: list[str] = []

    @property
    def has_unicode(self) -> bool:
        """Whether more than ASCII can be shown."""
        return self._encoding.lower().replace("-", "").startswith("utf")

    def size(self) -> tuple[int, int]:
        """Columns and lines, now."""
        try:
            columns, lines = os.get_terminal_size(self._descriptor)
        except OSError:
            return 80, 24
        return columns or 80, lines or 24

    def paint(self, lines: Sequence[str]) -> None:
        """Replaces what was painted before. Lines must fit the terminal in width and number."""
        with self._lock:
            self._write(self._to_top() + _painting(lines))
            self._painted = list(lines)

    def say(self, text: str) -> None:
        """Text that scrolls by above the painting. What would move the cursor is left out of it."""
        with self._lock:
            shown = visible(_CONTROL.sub("", text)).expandtabs()
            self._write(self._to_top() + "\x1b[J" + shown + "\n" + _painting(self._painted))

    def close(self) -> None:
        """Leaves the last painting where it is, the cursor below it."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _to_top(self) -> str:
        return f"\r\x1b[{len(self._painted)}A" if self._painted else "\r"

    def _write(self, text: str) -> None:
        """A terminal that went away is no reason for anything to end."""
        if self._descriptor < 0:
            return
        rest = text.encode(self._encoding, errors="replace")
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]


def _painting(lines: Sequence[str]) -> str:
    return "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"
