"""A folder of logs as the runs in it, with what the files next to the logs say: commands, and a queue's own log.

`RUN.cmd.txt` holds the command of `RUN.log`; `launch.txt` says when a queue started and ended each run and with which
status. Both are optional. A file that no run is in is listed as such, so that nothing goes unread in silence.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sweeps.importer.commands import Command, read_command
from sweeps.importer.logs import Log, LoggedRun, read_log
from sweeps.spec.checked import moment
from sweeps.spec.errors import UsageError
from sweeps.spec.names import MAX_NAME

QUEUE_LOG = "launch.txt"
COMMAND_SUFFIX = ".cmd.txt"
_LOG_SUFFIXES = (".log", ".txt", ".out")
_MAX_SMALL_BYTES = 2**22  # of a command or a queue's log
_QUEUE = re.compile(r"\[queue \S+ (\S+)\] (start|finish) (\S+)(?: status=(\d{1,3}))?\s*")


@dataclass(frozen=True, kw_only=True)
class Queued:
    """What a queue's log says of one run; of several starts the last."""

    started_utc: str | None = None
    ended_utc: str | None = None
    exit_status: int | None = None


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """One run of the folder."""

    name: str  # of the leg that it becomes
    log: Log
    run: LoggedRun
    command: Command | None
    queued: Queued = field(default_factory=Queued)

    @property
    def state(self) -> str:
        """completed, failed, running or unknown; a queue's status that is not 0 says that a run has failed."""
        status = self.run.status
        return "failed" if status in ("running", "unknown") and self.queued.exit_status else status


@dataclass(frozen=True, kw_only=True)
class LogFolder:
    """All that was found."""

    path: Path
    runs: tuple[FoundRun, ...]
    logs: tuple[Log, ...]
    unused: dict[str, str]  # file -> why no run comes from it


def read_folder(path: Path) -> LogFolder:
    """Reads every log of a folder, not of the folders in it. Raises UsageError if there is none."""
    try:
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; give the folder that holds the logs") from None
    queue = _read_queue(path / QUEUE_LOG)
    logs, unused = list[Log](), dict[str, str]()
    for name in names:
        if not name.endswith(_LOG_SUFFIXES) or name == QUEUE_LOG or name.endswith(COMMAND_SUFFIX):
            continue
        if not (path / name).is_file():
            unused[name] = "not a file"
            continue
        try:
            log = read_log(path / name)
        except OSError as error:
            unused[name] = f"cannot be read: {error.strerror}"
            continue
        is_log = any(run.steps for run in log.runs) or name.endswith(".log")
        logs += [log] if is_log else []
        unused |= {} if is_log else {name: "no line of it is a step"}
    if not logs:
        inner = [name for name in names if (path / name).is_dir()]
        hint = f"; it has folders: {', '.join(inner[:5])}" if inner else ""
        raise UsageError(f"{path} holds no log (files that end in {', '.join(_LOG_SUFFIXES)}){hint}")
    return LogFolder(path=path, runs=tuple(_runs(path, logs, queue)), logs=tuple(logs), unused=unused)


def _runs(path: Path, logs: Sequence[Log], queue: Mapping[str, Queued]) -> list[FoundRun]:
    found, taken = list[FoundRun](), set[str]()
    for log in logs:
        runs = [run for run in log.runs if run.steps] or (log.runs or [_nothing(log)])[:1]
        stem, beside = log.path.stem, _small_text(path / f"{log.path.stem}{COMMAND_SUFFIX}")
        of_file = None if beside is None else read_command(beside)
        for place, run in enumerate(runs):
            alone = len(runs) == 1
            name = _free_name(stem if place == 0 else f"{stem}-{place + 1}", taken)
            command = _logged_command(run) or (of_file if alone else None)
            queued = queue.get(stem, Queued()) if alone else Queued()
            found.append(FoundRun(name=name, log=log, run=run, command=command, queued=queued))
    return found


def _nothing(log: Log) -> LoggedRun:
    return LoggedRun(index=0, first_line=1, last_line=max(1, log.num_lines))


def _logged_command(run: LoggedRun) -> Command | None:
    """The command that the log itself says."""
    if (argv := run.facts.get("argv")) is not None:
        return read_command(f"base_train {argv}")
    return read_command(run.facts.get("command", ""))


def _free_name(wanted: str, taken: set[str]) -> str:
    """A name that can be a folder's and is not taken."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted)[: MAX_NAME - 10].lstrip("._-") or "run"
    name, number = plain, 2
    while name in taken:
        name, number = f"{plain}-{number}", number + 1
    taken.add(name)
    return name


def _small_text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SMALL_BYTES).decode(errors="replace")
    except OSError:
        return None


def _read_queue(path: Path) -> dict[str, Queued]:
    queued = dict[str, Queued]()
    for line in (_small_text(path) or "").splitlines():
        found = _QUEUE.fullmatch(line)
        if found is None:
            continue
        when, what, name, status = found.groups()
        if what == "start":
            queued[name] = Queued(started_utc=_utc(when))
        else:
            before = queued.get(name, Queued())
            queued[name] = Queued(
                started_utc=before.started_utc,
                ended_utc=_utc(when),
                exit_status=None if status is None else int(status),
            )
    return queued


def _utc(text: str) -> str | None:
    try:
        return moment(text).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):
        return None
