"""Mutation after mutation of one experiment, each read by everything that reads; numbers repeat what they did.

Mutation `number` of a seed depends on both alone, so a fault can be made again without what came before it.
"""

import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.config import digest
from tests.fuzz.experiments import fill
from tests.fuzz.files import change_a_file, change_a_folder
from tests.fuzz.guard import Guard
from tests.fuzz.mutations import changed_bytes, changed_field, palette, written
from tests.fuzz.reading import Reader
from tests.fuzz.sandbox import Sandbox

_READ_BY_NOBODY = ("report/", "export/")


@dataclass
class Faults:
    """What went wrong, the first few of each kind."""

    num_done: int = 0
    by_kind: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, str] = field(default_factory=dict[str, str])
    num_by_change: Counter[str] = field(default_factory=Counter[str])

    def add(self, number: int, what: str, problems: Iterable[str]) -> list[str]:
        """Notes one mutation; the sentences about kinds that are new."""
        self.num_done += 1
        new: list[str] = []
        for problem in problems:
            kind = problem[-160:]
            self.by_kind[kind] += 1
            if kind not in self.examples:
                self.examples[kind] = f"mutation {number} ({what}): {problem}"
                new.append(self.examples[kind])
        return new


class Campaign:
    """A sandbox below `root`, and everything that reads it."""

    def __init__(self, root: Path, recorded: Path | None = None) -> None:
        tempfile.gettempdir()  # which tries at its first call whether it can write there
        fill(root / "storage", recorded)
        self._sandbox = Sandbox(root)
        self._guard = Guard((root / "storage", root / "out"), self._sandbox.outside)
        self._reader = Reader(self._sandbox)
        self._canary = os.getppid()
        self._values = palette(str(self._sandbox.outside), (1, self._canary, os.getpid(), 2**22))
        self._files = [name for name in self._sandbox.files() if not name.startswith(_READ_BY_NOBODY)]
        self._files += [name for name in self._files if name.startswith("summaries/")]
        self._json = [name for name in self._files if name.endswith((".json", ".jsonl"))]
        self._documents: dict[str, Any] = {}

    def mutate(self, seed: int, number: int) -> tuple[str, list[str]]:
        """Changes one thing, reads all, puts it back. What was changed, and what was wrong."""
        rng = random.Random(f"{seed}/{number}")
        name, what = self._change(rng)
        try:
            self._guard.seen()
            self._guard.on = True
            problems = self._reader.problems(name, number)
        finally:
            self._guard.on = False
        problems += self._guard.seen()
        os.kill(self._canary, 0)
        self._sandbox.restore()
        return f"{name}: {what}", problems

    def _change(self, rng: random.Random) -> tuple[str, str]:
        """One field in seven of ten cases, else bytes, a file or a folder."""
        acts: list[Callable[[random.Random], tuple[str, str]]] = [self._field, self._bytes, self._file, self._folder]
        return rng.choices(acts, weights=[70, 16, 8, 6])[0](rng)

    def _field(self, rng: random.Random) -> tuple[str, str]:
        name = rng.choice(self._json)
        if name.endswith(".jsonl"):
            return name, self._row_field(name, rng)
        document, what = changed_field(self._document(name), self._values, rng)
        text = written(document)
        if name.endswith("manifest.json") and rng.random() < 0.8:
            text, what = _signed(text), f"{what}, with a digest that fits"
        self._put(name, text.encode("utf-8", "surrogatepass"))
        return name, what

    def _row_field(self, name: str, rng: random.Random) -> str:
        lines = self._sandbox.original(name).split(b"\n")[:-1]
        place = rng.randrange(len(lines))
        row, what = changed_field(json.loads(lines[place]), self._values, rng)
        lines[place] = written(row).encode("utf-8", "surrogatepass")
        self._put(name, b"\n".join(lines) + b"\n")
        return f"row {place} {what}"

    def _bytes(self, rng: random.Random) -> tuple[str, str]:
        name = rng.choice(self._files)
        others = [self._sandbox.original(rng.choice(self._files))]
        data, what = changed_bytes(self._sandbox.original(name), others, rng)
        self._put(name, data)
        return name, what

    def _file(self, rng: random.Random) -> tuple[str, str]:
        name = rng.choice(self._files)
        return name, change_a_file(self._sandbox, name, rng)

    def _folder(self, rng: random.Random) -> tuple[str, str]:
        name = rng.choice(self._sandbox.folders())
        return f"{name}/", change_a_folder(self._sandbox, name, rng)

    def _document(self, name: str) -> Any:
        if name not in self._documents:
            self._documents[name] = json.loads(self._sandbox.original(name))
        return self._documents[name]

    def _put(self, name: str, data: bytes) -> None:
        (self._sandbox.victim / name).write_bytes(data)


def _signed(text: str) -> str:
    """The manifest with the digest of its plan, as somebody writes it who wants it to be read."""
    try:
        manifest = json.loads(text)
        return json.dumps(manifest | {"plan_digest": digest(manifest["plan"])}, ensure_ascii=True)
    except (ValueError, TypeError, KeyError, RecursionError):
        return text
