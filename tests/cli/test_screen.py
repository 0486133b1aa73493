"""What a terminal shows after paintings and lines above them."""

import os
import re
from collections.abc import Generator
from pathlib import Path

import pytest

from cli.screen import Screen


class Tape:
    """Takes what is written, in place of a terminal."""

    def __init__(self, path: Path) -> None:
        self.stream = path.open("w", encoding="utf-8")
        self._path, self._num_read = path, 0

    def written(self) -> bytes:
        """Everything since the last call."""
        new = self._path.read_bytes()[self._num_read :]
        self._num_read += len(new)
        return new


@pytest.fixture
def tape(tmp_path: Path) -> Generator[Tape]:
    made = Tape(tmp_path / "tape")
    yield made
    made.stream.close()


def test_a_painting_replaces_the_one_before(tape: Tape, terminal: type) -> None:
    screen = Screen(tape.stream)
    screen.paint(["one", "a longer line", "three"])
    screen.paint(["1", "2"])
    assert terminal().feed(tape.written()).shown() == ["1", "2"]


def test_text_scrolls_by_above_the_painting(tape: Tape, terminal: type) -> None:
    screen = Screen(tape.stream)
    screen.say("before")
    screen.paint(["a", "b"])
    screen.say("first\nsecond")
    screen.paint(["c", "d"])
    screen.close()
    assert terminal().feed(tape.written()).shown() == ["before", "first", "second", "c", "d"]


def test_it_works_at_the_bottom_of_the_terminal_too(tape: Tape, terminal: type) -> None:
    screen = Screen(tape.stream)
    for i in range(20):
        screen.say(f"line {i}")
        screen.paint([f"painting {i}", "x", "y"])
    shown = terminal(lines=6).feed(tape.written()).shown()
    assert shown == [*(f"line {i}" for i in range(20)), "painting 19", "x", "y"]


def test_a_painting_is_one_write_that_clears_nothing_before_it_is_overwritten(tape: Tape) -> None:
    screen = Screen(tape.stream)
    screen.paint(["one", "two"])
    tape.written()
    screen.paint(["ONE", "TWO"])
    assert tape.written() == b"\r\x1b[2AONE\x1b[K\nTWO\x1b[K\n\x1b[J"


def test_the_cursor_is_never_hidden_and_no_mode_is_set(tape: Tape) -> None:
    screen = Screen(tape.stream)
    screen.paint(["one"])
    screen.say("two")
    screen.close()
    assert not re.search(rb"\x1b\[\?", tape.written())


def test_what_would_move_the_cursor_is_left_out_of_text(tape: Tape, terminal: type) -> None:
    screen = Screen(tape.stream)
    screen.say("a\x1b[2Jb\rc\x07\td\x1b[31me")
    assert terminal().feed(tape.written()).shown() == ["abc     de"]


def test_a_terminal_that_went_away_ends_nothing() -> None:
    controller, descriptor = os.openpty()
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        screen = Screen(stream)
        os.close(controller)
        screen.paint(["one"])
        screen.say("two")
        screen.close()
        screen.close()
        screen.say("three")


def test_what_the_terminal_cannot_show_is_replaced() -> None:
    controller, descriptor = os.openpty()
    with os.fdopen(descriptor, "w", encoding="ascii") as stream, os.fdopen(controller, "rb"):
        screen = Screen(stream)
        assert not screen.has_unicode
        screen.paint(["a…b"])
        assert os.read(controller, 100).startswith(b"\ra?b")
