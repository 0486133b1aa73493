"""What would control a terminal, or turn its writing around, is shown as an escape."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.spec.visible import shortened, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\u001b[2Jgone"),
        ("\x1b]0;title\x07", r"\u001b]0;title\u0007"),
        ("a\rb\bc\x7f\x9b31m", r"a\u000db\u0008c\u007f\u009b31m"),
        ("\u202egnp.exe\u2066\u200f", r"\u202egnp.exe\u2066\u200f"),
        ("half \ud83d", r"half \ud83d"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Größe 1, 2 µs, 日本, 😀", "Größe 1, 2 µs, 日本, 😀"),
    ],
)
def test_controls_are_escaped_and_writing_is_left_alone(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_whatever_a_text_holds_it_can_be_printed_and_moves_nothing(text: str) -> None:
    shown = visible(text)
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)
    shown.encode()
    assert visible(shown) == shown


@given(st.text())
def test_a_json_document_stays_the_same_document(text: str) -> None:
    assert json.loads(visible(json.dumps({"a": text}, ensure_ascii=False))) == {"a": text}


def test_a_long_line_is_cut_and_says_so() -> None:
    assert shortened("short") == "short"
    assert shortened("x" * 10_000) == f"{'x' * 500} ... (10,000 characters)"
