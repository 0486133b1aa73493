"""The documents of an attempt: one file for each writer, so that no writer undoes what another one stored meanwhile.

The driver opens an attempt and closes it; its file is the whole record then. In between rank 0 stores what it finds,
any rank the first error, and two watches in the driver why they killed the ranks. A user may ask for more after the
end. A reader puts the files together, by one rule and in no order of time.

The owners of an experiment are numbered, and so are attempts, a thousand for each owner: the first one's are 0 to 999,
the next one's 1000 to 1999. So everything that is named by an attempt (its documents, rows, checkpoints, stacks) is
named by its owner too, and readers, who take the highest attempt, take the newest owner's. What a launch that was taken
for dead still begins is older than what its successor has begun, however late it comes.
"""

import hashlib
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, get_args

from sweeps.records.documents import AttemptPart, AttemptRecord, from_bytes
from sweeps.records.store import Store
from sweeps.spec.errors import CorruptData

Writer = Literal["rank", "error", "watch", "timer", "user"]
"""Rank 0, a rank that failed, the watch for hung ranks, the watch over the leg's time, and who asks for more."""

_WHOLE = re.compile(r"([0-9]{3,9})\.json")
_PART = re.compile(rf"([0-9]{{3,9}})\.({'|'.join(get_args(Writer))})(-[0-9a-f]{{8}})?\.json")
_EMPTY = AttemptPart()
_PER_OWNER = 1000


def first_number(owner_number: int) -> int:
    """The number of an owner's first attempt of a trial; owners count from 1."""
    return (owner_number - 1) * _PER_OWNER


def owner_number_of(attempt: int) -> int:
    """Which owner an attempt is of, by its number."""
    return attempt // _PER_OWNER + 1


def whole_name(number: int) -> str:
    """The name of the file that opens an attempt."""
    return f"{number:03d}.json"


def part_name(number: int, writer: Writer) -> str:
    """The name of a writer's own file about an attempt; any rank can fail, so each has a file for that."""
    own = f"-{hashlib.sha256(f'{socket.gethostname()}/{os.getpid()}'.encode()).hexdigest()[:8]}"
    return f"{number:03d}.{writer}{own if writer == 'error' else ''}.json"


def numbered(names: Iterable[str]) -> list[tuple[int, str]]:
    """The attempts among the names of files, oldest first, each with the name of its opening file."""
    return sorted((int(match[1]), name) for name in names if (match := _WHOLE.fullmatch(name)))


def read_attempt(store: Store, folder: str, name: str, names: Iterable[str]) -> AttemptRecord:
    """An attempt by the name of its opening file, put together from all of its files among `names`.

    Raises CorruptData if one is damaged, FileNotFoundError if the opening one is not there.
    """
    number = int(name.partition(".")[0])
    where = store.uri_of(f"{folder}/{name}")
    opened = from_bytes(AttemptRecord, store.read(f"{folder}/{name}"), where)
    if opened.number != number:  # by which it is written again
        raise CorruptData(f"{where} is damaged: it says that it is attempt {opened.number}; put back an earlier copy")
    parts: dict[str, AttemptPart] = {}
    for other in sorted(names):
        match = _PART.fullmatch(other)
        is_needed = match is not None and int(match[1]) == number and (opened.end is None or match[2] == "user")
        if match is not None and is_needed:  # a closed attempt's own file holds what the others had
            path = f"{folder}/{other}"
            parts.setdefault(match[2], from_bytes(AttemptPart, store.read(path), store.uri_of(path)))
    return merged(opened, parts)


def merged(opened: AttemptRecord, parts: Mapping[str, AttemptPart]) -> AttemptRecord:
    """One record: what the driver says first, then rank 0, then what killed the ranks, then a rank's error."""
    rank, user = parts.get("rank", _EMPTY), parts.get("user", _EMPTY)
    record = replace(
        opened,
        facts=opened.facts if opened.facts is not None else rank.facts,
        first_step=opened.first_step if opened.first_step is not None else rank.first_step,
        first_step_utc=opened.first_step_utc or rank.first_step_utc,
        last_step_utc=opened.last_step_utc or rank.last_step_utc,
        ended_utc=opened.ended_utc or rank.ended_utc,
        retry_utc=user.retry_utc or opened.retry_utc,
        again_utc=user.again_utc or opened.again_utc,
    )
    if opened.end is not None:
        return record
    ending = [part for part in (rank, parts.get("timer", _EMPTY)) if part.end is not None]
    if ending:
        return replace(record, end=ending[0].end, error=ending[0].error or opened.error)
    errors = (parts.get(writer, _EMPTY).error for writer in ("watch", "error"))
    return replace(record, error=next((error for error in errors if error is not None), opened.error))
