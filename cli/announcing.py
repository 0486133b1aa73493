"""Who hears of a launch's events besides the person in front of it: a program on stdout, a command of the user's.

The command is started for the events that people want to be woken for. It runs on a thread of its own, one event after
the other, so a slow one holds no training up; one that fails is a warning, once.
"""

import contextlib
import json
import queue
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.engine.watching.events import Event

NOTIFIED = ("leg_completed", "leg_failed", "leg_stopped", "verdict", "experiment_ended")
COMMAND_TIMEOUT_S = 60.0  # of one call; and how long the end of a launch waits for those that are left


def checked_command(text: str | None) -> tuple[str, ...] | None:
    """The words of --notify. Raises UsageError for a command that there is not."""
    from sweeps.spec.errors import UsageError

    if text is None:
        return None
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--notify {text!r} cannot be read: {str(error).lower()}") from None
    if not words or shutil.which(words[0]) is None:
        raise UsageError(f"--notify {text!r}: there is no such command; give one that reads JSON on stdin")
    return tuple(words)


@contextlib.contextmanager
def announcing(
    tell: "Callable[[Event], None]", experiment: str, *, as_json: bool, command: tuple[str, ...] | None
) -> "Generator[Callable[[Event], None]]":
    """A function that does what `tell` does, and announces the event; at the end it waits for the command."""
    from sweeps.engine.watching.event_json import event_json
    from sweeps.records.documents import utc_now

    notifier = None if command is None else _Notifier(command, tell)

    def announce(event: "Event") -> None:
        tell(event)
        if as_json or notifier is not None:
            document = event_json(event, experiment=experiment, time_utc=utc_now())
            if as_json:
                print_event(document)
            if notifier is not None and document["event"] in NOTIFIED:
                notifier.put(document)

    try:
        yield announce
    finally:
        if notifier is not None:
            notifier.close()


def print_event(document: dict[str, Any]) -> None:
    """One line on stdout, at once."""
    sys.stdout.write(json.dumps(document) + "\n")  # one write: other threads tell events, too
    sys.stdout.flush()


class _Notifier:
    """Runs the command for each document, in their order."""

    def __init__(self, command: tuple[str, ...], tell: "Callable[[Event], None]") -> None:
        self._command, self._tell = command, tell
        self._has_failed = False
        self._waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="notify", daemon=True)
        self._thread.start()

    def put(self, document: dict[str, Any]) -> None:
        """Has the command run for it soon."""
        self._waiting.put(document)

    def close(self) -> None:
        """Waits for what was put, not for ever."""
        self._waiting.put(None)
        self._thread.join(COMMAND_TIMEOUT_S)

    def _work(self) -> None:
        while (document := self._waiting.get()) is not None:
            problem = self._run(json.dumps(document) + "\n")
            if problem is not None and not self._has_failed:
                self._has_failed = True
                self._warn(problem)

    def _run(self, text: str) -> str | None:
        """Why the command failed, if it did."""
        try:
            done = subprocess.run(
                self._command,
                input=text,
                text=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                errors="replace",
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"has not ended after {COMMAND_TIMEOUT_S:.0f} s"
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        return None if done.returncode == 0 else f"ended with {done.returncode}: {done.stderr.strip()[-200:]}"

    def _warn(self, problem: str) -> None:
        from sweeps.engine.watching.events import Warned

        self._tell(Warned(message=f"--notify {shlex.join(self._command)} {problem}; further failures are not reported"))
