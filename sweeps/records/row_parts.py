"""The parts in which a trial's rows are stored, read whole or as they come.

A part never changes, so a reader that looks again and again reads each once. Compaction puts the rows of many parts
into one and deletes those; a reader can see a row in both, or find that a part it has listed is gone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sweeps.records.rows import StepRow, decode_rows
from sweeps.records.steps import Steps, decode_steps, merge_steps
from sweeps.records.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class StoredSteps:
    """A trial's steps, each once, and the part files that were not whole."""

    steps: Steps
    torn: tuple[str, ...]  # relative to the experiment; their whole lines are among the steps
    spans: dict[int, tuple[int, int]]  # attempt -> its first and last stored step, superseded ones included


def part_files(store: Store, folder: str) -> list[str]:
    """The names of the parts in a folder of rows, sorted."""
    return [name for name in store.list(folder) if name.endswith(".jsonl")]


def read_steps(store: Store, folder: str) -> StoredSteps:
    """All steps, the latest attempt that covers each, and which parts are incomplete."""
    parts, torn = _read_all(store, folder, decode_steps)
    every = Steps.joined(parts.values())
    return StoredSteps(merge_steps(every), tuple(f"{folder}/{name}" for name in torn), _spans(every))


def read_rows(store: Store, folder: str) -> tuple[dict[str, list[StepRow]], list[str]]:
    """The whole rows of each part by its name, superseded ones included, and the names of the incomplete parts."""
    return _read_all(store, folder, decode_rows)


class NewSteps:
    """Hands out each stored step once, however often it is asked."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._folder = store, folder
        self._parts: set[str] = set()
        self._last: dict[int, int] = {}  # attempt -> the last step that was handed out
        self._found: list[Steps] = []  # read, and not handed out because storage failed at a later part

    def skip(self) -> None:
        """Takes what is stored now as known, without reading it."""
        self._parts.update(part_files(self._store, self._folder))

    def read(self) -> Steps:
        """The steps since the last call, those of superseded attempts too, in the order of their parts.

        Raises OSError while storage fails; the next call misses none for that.
        """
        for name in part_files(self._store, self._folder):
            if name in self._parts:
                continue
            try:
                data = self._store.read(f"{self._folder}/{name}")
            except FileNotFoundError:  # compacted since it was listed; its rows are in another part at the next look
                continue
            self._parts.add(name)
            self._found.append(self._unseen(decode_steps(data)[0]))
        found, self._found = self._found, []
        return Steps.joined(found)

    def _unseen(self, steps: Steps) -> Steps:
        is_new: list[bool] = []
        for attempt, step in zip(steps.ints("attempt"), steps.ints("step"), strict=True):
            is_new.append(step > self._last.get(attempt, -1))
            if is_new[-1]:
                self._last[attempt] = step
        return steps if all(is_new) else steps.where(is_new)


def _read_all(store: Store, folder: str, decode: Callable[[bytes], tuple[T, bool]]) -> tuple[dict[str, T], list[str]]:
    """Each part decoded, by name, and the names of the incomplete ones.

    A part that vanished since it was listed was compacted meanwhile: the list is made again.
    """
    while True:
        parts: dict[str, T] = {}
        torn: list[str] = []
        try:
            for name in part_files(store, folder):
                data = store.read(f"{folder}/{name}")
                parts[name], is_torn = decode(data)
                if is_torn or not data:
                    torn.append(name)
            return parts, torn
        except FileNotFoundError:
            continue


def _spans(steps: Steps) -> dict[int, tuple[int, int]]:
    spans: dict[int, tuple[int, int]] = {}
    for attempt, step in zip(steps.ints("attempt"), steps.ints("step"), strict=True):
        first, last = spans.get(attempt, (step, step))
        spans[attempt] = (min(first, step), max(last, step))
    return spans
