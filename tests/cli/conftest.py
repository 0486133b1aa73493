"""The program without the price of a new process: the same entry, in this one. And a terminal to look at."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.console import guarded
from cli.main import app


@dataclass(frozen=True)
class Done:
    """How a call of the program ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """program("ls", "--json"): runs a command over the experiments in tmp_path/storage."""
    monkeypatch.setenv("NANOCHAT_SWEEP_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(*words: str | Path) -> Done:
        capfd.readouterr()
        code = guarded(lambda: app([str(word) for word in words], standalone_mode=False))
        printed = capfd.readouterr()
        return Done(code, printed.out, printed.err)

    return run


class Terminal:
    """What a terminal shows after some bytes: just enough of one to see what our program does."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.columns, self.lines = columns, lines
        self.rows = [[" "] * columns]  # with what has scrolled out at the top
        self.row = self.column = 0

    def feed(self, data: bytes) -> "Terminal":
        """Draws; an escape sequence that is not known is an error."""
        for text, up, erase in re.findall(r"((?:[^\x1b])+)|\x1b\[(\d+)A|\x1b\[([KJ]|[\d;]*m)", data.decode()):
            for character in text:
                self._put(character)
            if up:
                self.row = max(len(self.rows) - self.lines, 0, self.row - int(up))
            if erase in ("K", "J"):
                self.rows[self.row][self.column :] = [" "] * (self.columns - self.column)
                for row in self.rows[self.row + 1 :] if erase == "J" else []:
                    row[:] = [" "] * self.columns
        assert set(re.findall(r"\x1b\[?[^A-Za-z]*[A-Za-z]", data.decode())) <= set(
            re.findall(r"\x1b\[\d+A|\x1b\[[KJ]|\x1b\[[\d;]*m", data.decode())
        )
        return self

    def shown(self) -> list[str]:
        """The lines from the first to the last one that holds anything."""
        return "\n".join("".join(row).rstrip() for row in self.rows).rstrip().splitlines()

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row, self.column = self.row + 1, 0
            if self.row == len(self.rows):
                self.rows.append([" "] * self.columns)
        else:
            if self.column == self.columns:
                self._put("\n")
            self.rows[self.row][self.column] = character
            self.column += 1


@pytest.fixture
def terminal() -> type[Terminal]:
    """The class: terminal(columns=80).feed(data).shown()."""
    return Terminal
