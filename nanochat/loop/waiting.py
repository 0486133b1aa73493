"""Which ranks wait for another one, read from the stacks of their threads. The one judge under torchrun and Ray.

A thread waits if its stack ends inside torch's or Ray Train's collectives, or in a call that returns only when the GPU
is done, which inside a collective means when the other ranks are. That holds for gloo and NCCL alike and needs nothing
from the code that trains. Storage, the loader thread and the checkpoint's writer are a rank's own work, however slow.

Stacks come from a rank's own interpreter or as the text of faulthandler, which answers even where C code hangs. Paths
mean something only on the rank's machine, so each rank notes at its start which files count (`Landmarks`), and a text
gets its source lines there (`with_sources`). Imports no torch: the driver that judges has none.
"""

import importlib.util
import linecache
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.+)$')
_SOURCE = re.compile(r"^ {4}(\S.*)$")
_THREAD = re.compile(r"^(?:Current thread|Thread) ", re.MULTILINE)
_COLLECTIVE_CALL = re.compile(r"\.wait\(")
_GPU_CALL = re.compile(r"\.(synchronize|tolist|item|cpu)\(")
_INNERMOST = 4  # frames between the call of a collective and the C function that waits


@dataclass(frozen=True)
class Frame:
    """One frame of a stack: where it is, and its line of source if that can be read."""

    file: str
    line: int
    function: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.function} ({Path(self.file).name}:{self.line})"


Stack = Sequence[Frame]  # the innermost frame is last


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """The files of one rank by which its stacks are read. What ends in a slash stands for all files below it."""

    collectives: tuple[str, ...]
    own_work: tuple[str, ...]  # below a collective's folder, but work on the disk
    gpu: tuple[str, ...]
    saver: str  # of the thread that waits for a checkpoint's writer, and of that writer
    threads: tuple[str, ...]  # Python's own waiting for another thread
    entry: str  # the thread that trains is the one below this file
    entry_function: str

    @classmethod
    def here(cls, entry: str, entry_function: str) -> "Landmarks":
        """Those of this interpreter; `entry` is the file that holds `entry_function`."""
        torch, ray = _package("torch"), _package("ray")
        return cls(
            collectives=(f"{torch}distributed/", f"{ray}train/", _file("nanochat.machine.ranks")),
            own_work=(f"{torch}distributed/checkpoint/",),
            gpu=(f"{torch}cuda/",),
            saver=_file("nanochat.checkpoints.saving"),
            threads=(_file("threading"), _package("concurrent.futures")),
            entry=entry,
            entry_function=entry_function,
        )

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> "Landmarks":
        """From their JSON, in which tuples are lists."""
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Answer:
    """What the training thread of a rank was doing when it was asked."""

    waits: bool
    place: str


def _file(module: str) -> str:
    spec = importlib.util.find_spec(module)
    return (spec.origin if spec is not None else None) or f"no {module}"


def _package(name: str) -> str:
    """The folder of a package, with a slash; nothing is imported, and a package that is missing matches nothing."""
    spec = importlib.util.find_spec(name)
    folders = spec.submodule_search_locations if spec is not None else None
    return f"{next(iter(folders))}/" if folders else f"no {name}/"


def _is_in(frame: Frame, places: Sequence[str]) -> bool:
    return any(frame.file.startswith(place) if place.endswith("/") else frame.file == place for place in places)


def in_collective(stack: Stack, landmarks: Landmarks) -> bool:
    """True if the stack ends in a collective."""
    innermost = [frame for frame in stack[-_INNERMOST:] if not _is_in(frame, landmarks.own_work)]
    is_inside = any(_is_in(frame, landmarks.collectives) for frame in innermost)
    return is_inside or (bool(stack) and bool(_COLLECTIVE_CALL.search(stack[-1].source)))


def waits(stack: Stack, landmarks: Landmarks) -> bool:
    """True if the stack ends in waiting for other ranks or for the GPU."""
    if in_collective(stack, landmarks):
        return True
    is_in_gpu_call = any(_is_in(frame, landmarks.gpu) for frame in stack[-_INNERMOST:])
    return is_in_gpu_call or (bool(stack) and bool(_GPU_CALL.search(stack[-1].source)))


def waits_for_writer(stack: Stack, landmarks: Landmarks) -> bool:
    """True if the stack ends in waiting for this rank's own checkpoint writer."""
    callers = [frame for frame in stack if not _is_in(frame, landmarks.threads)]
    return bool(callers) and callers[-1] is not stack[-1] and callers[-1].file == landmarks.saver


def answer(training: Stack, writers: Sequence[Stack], landmarks: Landmarks) -> Answer:
    """What a rank does. Where training waits for its checkpoint's writer, the writer's stack decides.

    A writer that is not among the stacks hides what it does; then the rank counts as waiting rather than be blamed.
    """
    if not waits_for_writer(training, landmarks):
        return Answer(waits(training, landmarks), place_of(training, landmarks))
    if not writers:
        return Answer(waits=True, place=place_of(training, landmarks))
    return Answer(waits(writers[0], landmarks), place_of(writers[0], landmarks))


def answer_of_text(text: str, landmarks: Landmarks) -> Answer | None:
    """The same from faulthandler's text, with or without sources; None if there is no stack in it."""
    stacks = [stack for part in _THREAD.split(text) if (stack := _parse(part))]
    if not stacks:
        return None
    trains = next((s for s in stacks if any(_is_entry(frame, landmarks) for frame in s)), None)
    if trains is None:  # not there yet, no longer there, or deeper than faulthandler writes
        return Answer(waits=False, place="code in which no thread is seen to train")
    entry = next(index for index, frame in enumerate(trains) if _is_entry(frame, landmarks))
    writers = [s for s in stacks if s is not trains and any(frame.file == landmarks.saver for frame in s)]
    return answer(trains[entry:], writers, landmarks)  # the entry's own callers can be Ray Train's


def frames_of(stack: Sequence[traceback.FrameSummary]) -> list[Frame]:
    """From this interpreter, outermost first as traceback has it."""
    return [Frame(frame.filename, frame.lineno or 0, frame.name, frame.line or "") for frame in stack]


def place_of(stack: Stack, landmarks: Landmarks) -> str:
    """The innermost function of a stack that is not Python's own waiting, with file and line."""
    shown = [frame for frame in stack if not _is_in(frame, landmarks.threads)] or stack
    return str(shown[-1]) if shown else "no code of Python"


def with_sources(text: str) -> str:
    """faulthandler's text with each frame's line of source below it; call it where the rank's files are."""
    lines = list[str]()
    for line in text.splitlines():
        lines.append(line)
        if found := _FRAME.match(line):
            source = linecache.getline(found["file"], int(found["line"])).strip()
            lines += [f"    {source}"] if source else []
    return "\n".join(lines) + "\n"


def _is_entry(frame: Frame, landmarks: Landmarks) -> bool:
    return frame.file == landmarks.entry and frame.function == landmarks.entry_function


def _parse(thread: str) -> list[Frame]:
    """One thread of faulthandler's text, which has the innermost frame first; what is no frame is left out."""
    frames = list[Frame]()
    for line in thread.splitlines():
        if found := _FRAME.match(line):
            frames.append(Frame(found["file"], int(found["line"]), found["function"]))
        elif frames and not frames[-1].source and (source := _SOURCE.match(line)):
            last = frames[-1]
            frames[-1] = Frame(last.file, last.line, last.function, source[1])
    return frames[::-1]


def who_holds_up(names: Sequence[str], answers: Mapping[int, Answer], answer_s: float) -> str | None:
    """The ranks that the others wait for, as a sentence without its full stop; None if it cannot be told.

    `names` of all ranks; `answers` of those that gave one within `answer_s`.
    """
    silent = [rank for rank in range(len(names)) if rank not in answers]
    busy = [rank for rank, given in sorted(answers.items()) if not given.waits]
    if silent:
        who = " and ".join(names[rank] for rank in silent)
        return f"{who} did not answer within {answer_s:.0f} s: killed, stopped, or stuck in code that is not Python"
    if busy and (len(busy) < len(names) or len(names) == 1):
        found = " and ".join(f"{names[rank]} is in {answers[rank].place}" for rank in busy)
        return found if len(names) == 1 else f"{found}, and the others wait for that"
    return None
