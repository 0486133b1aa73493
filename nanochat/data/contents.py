"""What shards hold: each one is looked at once, and known by its inode, size and times afterwards.

Two legs are only comparable if they read the same text, and neither names nor sizes of files tell that. So every byte
is hashed, and in the same pass a shard is checked: what cannot be trained on is rejected before the first step, not
when the loader gets there. Hashing terabytes takes minutes, so what was found is kept in the cache folder, a file for
each folder of shards; processes that start together wait for one of them to look. A file that was changed has another
time, and one that was replaced another inode: it is looked at again.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat.config import ConfigError, digest
from nanochat.data import shards
from nanochat.data.cache import only_builder
from nanochat.files import write_whole

_SCHEMA = "nanochat-sweep/contents/1"
MAX_THREADS = 8
SAVE_EVERY_S = 20.0  # a look that is cut off is continued there
_SAY_FROM_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What was found in one shard."""

    sha256: str  # of the file
    num_documents: int
    num_text_bytes: int  # about; from the footer
    has_text: bool  # any document has a character


def look_at(paths: Sequence[Path], root: Path) -> list[Contents]:
    """The contents of some shards of one folder, in order; `root` is the cache folder.

    Raises ConfigError, naming the file, for one that cannot be trained on or changes meanwhile.
    """
    memory = _Memory(paths, root)
    found = memory.recall()
    if len(found) < len(paths):
        with memory.alone():
            found = memory.recall()
            missing = [path for path in paths if path not in found]
            saved_s = time.monotonic()
            for path, seen in _look_at_each(missing):
                found[path] = seen
                if time.monotonic() - saved_s > SAVE_EVERY_S:
                    memory.keep(found)
                    saved_s = time.monotonic()
            if missing:
                memory.keep(found)
    return [found[path].contents for path in paths]


def recall(paths: Sequence[Path], root: Path) -> list[Contents] | None:
    """What an earlier look found in these shards; None if any of them would have to be looked at."""
    found = _Memory(paths, root).recall()
    return [found[path].contents for path in paths] if len(found) == len(paths) else None


@dataclass(frozen=True)
class _Seen:
    """The contents of a file that had this identity."""

    identity: str
    contents: Contents


def _look_at_each(paths: Sequence[Path]) -> Iterator[tuple[Path, _Seen]]:
    """In order, several at a time."""
    num_bytes = sum(map(_size_or_0, paths))
    if num_bytes >= _SAY_FROM_BYTES:
        print(f"reading {len(paths)} shards once ({num_bytes / 2**30:,.1f} GiB)", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(max_workers=min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(look_at_one, path) for path in paths]
        try:
            for path, future in zip(paths, futures, strict=True):
                yield path, future.result()
        finally:
            for future in futures:
                future.cancel()


def look_at_one(path: Path) -> _Seen:
    """Reads one shard from its first byte to its last: what it contains, or why it cannot be trained on."""
    with shards.open_shard(path) as file:
        try:
            identity = _identity(path)
            with path.open("rb") as opened:
                sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            contents = Contents(
                sha256=sha256,
                num_documents=shards.num_documents(file),
                num_text_bytes=shards.num_text_bytes(file),
                has_text=shards.has_text(path, file),
            )
            if _identity(path) == identity:
                return _Seen(identity, contents)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror or error}); fetch this shard again") from error
    raise ConfigError(f"{path} was changed while it was read; try again when it is complete")


def _size_or_0(path: Path) -> int:
    """Opening the file says what is wrong with one that has no size."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _identity(path: Path) -> str:
    """Another one as soon as a file is changed or replaced. Raises OSError."""
    s = path.stat()
    return f"{s.st_dev}:{s.st_ino}:{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}"


class _Memory:
    """What is known of the shards of a folder. Without a cache that can be written, nothing is kept."""

    def __init__(self, paths: Sequence[Path], root: Path) -> None:
        self._paths, self._root = paths, root
        self._file = root / f"contents-{digest(str(paths[0].parent))[:16]}.json"

    def recall(self) -> dict[Path, _Seen]:
        """What is known of the shards as they are now; those that would have to be looked at are not in it."""
        known = self._known()
        found: dict[Path, _Seen] = {}
        for path in self._paths:
            with contextlib.suppress(OSError):  # opening it says what is wrong
                identity = _identity(path)
                if identity in known:
                    found[path] = _Seen(identity, known[identity])
        return found

    def _known(self) -> dict[str, Contents]:
        """By identity; nothing if the file is missing or is not what was written."""
        try:
            stored: Any = json.loads(self._file.read_bytes())
            if stored["schema"] != _SCHEMA:
                return {}
            return {identity: Contents(**entry) for identity, entry in stored["shards"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def keep(self, found: dict[Path, _Seen]) -> None:
        """Replaces what was known."""
        body = {seen.identity: asdict(seen.contents) for seen in found.values()}
        with contextlib.suppress(OSError):
            write_whole(self._file, json.dumps({"schema": _SCHEMA, "shards": body}).encode())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While no other process looks at this folder, if the cache can hold a lock."""
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                self._root.mkdir(parents=True, exist_ok=True)
                held.enter_context(only_builder(self._file.with_name(f".{self._file.name}.lock")))
            yield
