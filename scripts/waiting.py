"""Whether a training thread waits for the others, and the sentence about the rank that they all wait for.

A thread's stack tells: it waits if it is inside torch's collectives, or in a call that returns only when the GPU is
done, which in a collective means when the others are. That holds for gloo and for NCCL alike, and needs nothing from
the code that trains. Storage, the loader thread and the checkpoint's writer are this rank's own: it is busy with them,
however slow they are.
"""

import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_COLLECTIVE_FILE = re.compile(r"/torch/distributed/(?!checkpoint/)|/nanochat/dist\.py$")
_COLLECTIVE_CALL = re.compile(r"\.wait\(")
_THREADS_FILE = re.compile(r"/(threading|concurrent/futures/\w+)\.py$")
_SAVER_FILE = re.compile(r"/nanochat/saving\.py$")
_GPU_CALL = re.compile(r"\.(synchronize|tolist|item)\(")
_INNERMOST = 4
GO_ON = "add --resume latest to go on at the newest checkpoint"


@dataclass(frozen=True)
class Answer:
    """What a rank's training thread was doing when the roll was called."""

    waits: bool
    place: str


def in_collective(stack: Sequence[traceback.FrameSummary]) -> bool:
    """Whether a stack, outermost frame first, ends in a collective."""
    is_inside = any(_COLLECTIVE_FILE.search(frame.filename) for frame in stack[-_INNERMOST:])
    return is_inside or (bool(stack) and bool(_COLLECTIVE_CALL.search(stack[-1].line or "")))


def waits(stack: Sequence[traceback.FrameSummary]) -> bool:
    """Whether a stack, outermost frame first, ends in waiting for other ranks or for the GPU."""
    return in_collective(stack) or (bool(stack) and bool(_GPU_CALL.search(stack[-1].line or "")))


def waits_for_writer(stack: Sequence[traceback.FrameSummary]) -> bool:
    """Whether a stack, outermost frame first, ends in waiting for this rank's own checkpoint writer."""
    callers = [frame for frame in stack if not _THREADS_FILE.search(frame.filename)]
    return bool(callers) and callers[-1] is not stack[-1] and bool(_SAVER_FILE.search(callers[-1].filename))


def place_of(stack: Sequence[traceback.FrameSummary]) -> str:
    """The innermost function of a stack, with file and line."""
    if not stack:
        return "no code of Python"
    return f"{stack[-1].name} ({Path(stack[-1].filename).name}:{stack[-1].lineno})"


def gone(names: Sequence[str]) -> str:
    """What to say of ranks whose processes are no more, though they have not said why."""
    are = "is" if len(names) == 1 else "are"
    return f"{' and '.join(names)} {are} gone: killed, or crashed outside of Python. The others wait in vain; {GO_ON}"


def verdict(names: Sequence[str], answers: Mapping[int, Answer], cause: str, answer_s: float) -> str:
    """Who holds the others up. `names` of all ranks; `answers` of those that gave one within `answer_s`."""
    silent = [rank for rank in range(len(names)) if rank not in answers]
    busy = [rank for rank, answer in sorted(answers.items()) if not answer.waits]
    if silent:
        who = " and ".join(names[rank] for rank in silent)
        found = f"{who} did not answer within {answer_s:.0f} s: killed, stopped, or stuck in code that is not Python"
    elif busy and len(busy) < len(names):
        found = " and ".join(f"{names[rank]} is in {answers[rank].place}" for rank in busy)
        found += ", and the others wait for that"
    else:
        found = "every rank answered, so it cannot be told which of them holds the others up"
    return f"{found}. {cause}; {GO_ON}"
