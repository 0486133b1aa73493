"""A whole log as the runs in it: their steps, each once, what ended them, and which lines could not be used.

One file may hold several runs, one after the other, and a run may continue in later attempts that repeat steps. A run
begins at a start line, at a step count that falls back to 0, or where lines say another number of steps; a count that
falls back to a later step is an attempt that was resumed, and its steps replace the repeated ones. Nothing is guessed:
what no line says stays unknown.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from sweeps.importer.lines import (
    EndLine,
    ErrorLine,
    EvalLine,
    FactLine,
    Found,
    StepLine,
    Unread,
    read_line,
)

MAX_LINE_BYTES = 65_536  # of a longer line the rest is counted, not read
_START_FACTS = ("Vocab size", "GPU", "argv.depth", "config.depth")
_EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class LoggedStep:
    """One step as its line says it."""

    step: int
    attempt: int
    line: int  # counts from 1
    values: dict[str, float]


@dataclass(kw_only=True)
class LoggedRun:
    """One run of one file. `ends` holds what its last lines say."""

    index: int  # in the file, from 0
    first_line: int
    last_line: int
    num_steps: int | None = None
    attempts: int = 1
    steps: dict[int, LoggedStep] = field(default_factory=dict[int, LoggedStep])
    evaluations: list[EvalLine] = field(default_factory=list[EvalLine])
    facts: dict[str, str] = field(default_factory=dict[str, str])
    ends: dict[str, float] = field(default_factory=dict[str, float])
    error: str | None = None

    @property
    def is_completed(self) -> bool:
        """True if both lines were seen that a run prints at its end; there is no other mark of it."""
        return {"peak_mib", "total_time_min"} <= set(self.ends)

    @property
    def status(self) -> str:
        """completed, failed, running (or cut off without a word) or unknown (not one step)."""
        if self.is_completed:
            return "completed"
        if self.error is not None:
            return "failed"
        return "running" if self.steps else "unknown"

    def ordered(self) -> list[LoggedStep]:
        """Each step once, by number."""
        return [self.steps[step] for step in sorted(self.steps)]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A line, or a part of one, that could not be used."""

    line: int
    why: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Log:
    """One file: its runs, and an account of every line."""

    path: Path
    sha256: str
    num_lines: int
    runs: list[LoggedRun]
    counts: dict[str, int]  # of lines by what they were
    skipped: list[Skipped]  # the first of each kind


def read_log(path: Path) -> Log:
    """Reads a file line by line, whatever its bytes are. Raises OSError if it cannot be read."""
    digest, reader = hashlib.sha256(), _Reader()
    number = 0
    with path.open("rb") as file:
        for number, (line, is_torn, is_long) in enumerate(_lines(file, digest.update), 1):
            reader.take(number, line.decode("utf-8", errors="replace"), is_torn=is_torn, is_long=is_long)
    return Log(
        path=path,
        sha256=digest.hexdigest(),
        num_lines=number,
        runs=reader.runs,
        counts=dict(sorted(reader.counts.items())),
        skipped=reader.skipped,
    )


def _lines(file: BinaryIO, seen: Callable[[bytes], object]) -> Iterator[tuple[bytes, bool, bool]]:
    """Each line, whether its end is missing, and whether it is longer than what is read of it."""
    while chunk := file.readline(MAX_LINE_BYTES):
        seen(chunk)
        is_long = False
        rest = chunk
        while not rest.endswith(b"\n") and len(rest) == MAX_LINE_BYTES:
            is_long = True
            rest = file.readline(MAX_LINE_BYTES)
            seen(rest)
            if not rest:
                break
        yield chunk, not rest.endswith(b"\n"), is_long


class _Reader:
    """Puts lines together into runs."""

    def __init__(self) -> None:
        self.runs: list[LoggedRun] = []
        self.counts: Counter[str] = Counter()
        self.skipped: list[Skipped] = []
        self._has_started = False  # a start line was seen since the last step

    def take(self, number: int, line: str, *, is_torn: bool, is_long: bool) -> None:
        """One line of the file."""
        if is_long:
            self._skip(number, "line longer than what is read of one", line)
            return
        found = list(read_line(line, is_torn=is_torn))
        if not found:
            self.counts["other"] += 1
        for item in found:
            self._take(number, item)

    def _take(self, number: int, item: Found) -> None:
        match item:
            case Unread():
                self._skip(number, item.why, item.text)
                return
            case StepLine():
                self._step(number, item)
            case FactLine():
                self._fact(number, item)
            case EvalLine():
                self._current(number).evaluations.append(item)
                self.counts["evaluation"] += 1
            case EndLine():
                self._current(number).ends[item.name] = item.value
                self.counts["end"] += 1
            case ErrorLine():
                run = self._current(number)
                run.error = run.error or item.text
                self.counts["error"] += 1
        if self.runs:
            self.runs[-1].last_line = number

    def _step(self, number: int, line: StepLine) -> None:
        run = self._run_of(number, line)
        self._has_started = False
        known = run.steps.get(line.step)
        for name in line.unread:
            self._skip(number, f"{name} without a whole number", str(line.step))
        if known is not None and line.values.items() <= known.values.items():
            self.counts["repeated step"] += 1
            return
        if line.num_steps is not None:
            run.num_steps = line.num_steps
        run.steps[line.step] = LoggedStep(step=line.step, attempt=run.attempts - 1, line=number, values=line.values)
        self.counts["step"] += 1

    def _run_of(self, number: int, line: StepLine) -> LoggedRun:
        """The run that a step belongs to: the present one, an attempt of it that was resumed, or a new one."""
        run = self._current(number)
        if not run.steps:
            return run
        last = max(run.steps)
        repeats = run.steps.get(line.step)
        if repeats is not None and line.values.items() <= repeats.values.items() and not self._has_started:
            return run  # printed twice
        falls_back = line.step <= max(step.step for step in run.steps.values() if step.attempt == run.attempts - 1)
        is_other_length = None not in (run.num_steps, line.num_steps) and run.num_steps != line.num_steps
        if (self._has_started or falls_back) and (line.step == 0 or line.step > last + 1 or run.is_completed):
            return self._begin(number)
        if is_other_length:
            return self._begin(number)
        if self._has_started or falls_back:
            run.attempts += 1
            run.error = None
            for step in [step for step in run.steps if step >= line.step]:
                del run.steps[step]
        return run

    def _fact(self, number: int, line: FactLine) -> None:
        run = self._current(number)
        if line.name in _START_FACTS and (run.steps or run.ends):
            self._has_started = True
        if self._has_started and run.is_completed:
            run = self._begin(number)
            self._has_started = False
        run.facts[line.name] = line.value
        self.counts["fact"] += 1

    def _current(self, number: int) -> LoggedRun:
        return self.runs[-1] if self.runs else self._begin(number)

    def _begin(self, number: int) -> LoggedRun:
        run = LoggedRun(index=len(self.runs), first_line=number, last_line=number)
        self.runs.append(run)
        return run

    def _skip(self, number: int, why: str, text: str) -> None:
        self.counts[f"skipped: {why}"] += 1
        if self.counts[f"skipped: {why}"] <= _EXAMPLES:
            self.skipped.append(Skipped(line=number, why=why, text=text[:200]))
