"""Novels are cut into documents: nothing is lost, nothing is too long, a chapter starts a document."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nanochat.data.documents
from nanochat.data.documents import MAX_DOCUMENT_CHARS, cut_into_documents

_NOVELS = sorted((Path(nanochat.data.documents.__file__).parent / "austen").glob("*.txt"))


def test_paragraphs_fill_a_document_up_to_the_bound():
    assert cut_into_documents("aaa\n\nbbb\n\nccc", max_chars=8) == ["aaa\n\nbbb", "ccc"]


def test_a_chapter_starts_a_document_and_a_volume_heading_stays_with_its_chapter():
    novel = "EMMA\n\nVOLUME I\n\n\nCHAPTER I\n\nOne.\n\nCHAPTER II\n\nTwo.\n"
    assert cut_into_documents(novel) == ["EMMA", "VOLUME I\n\nCHAPTER I\n\nOne.", "CHAPTER II\n\nTwo."]


def test_a_paragraph_that_is_too_long_is_cut_at_line_ends():
    assert cut_into_documents("aaaa\nbbbb\ncccc", max_chars=10) == ["aaaa\nbbbb", "cccc"]


def test_a_line_that_is_too_long_is_cut_anywhere():
    assert cut_into_documents("abcdefg", max_chars=3) == ["abc", "def", "g"]


@settings(deadline=None)
@given(st.text(alphabet="ab \n", max_size=200), st.integers(min_value=1, max_value=30))
def test_no_word_is_lost_and_no_document_is_too_long(novel: str, max_chars: int):
    documents = cut_into_documents(novel, max_chars)
    assert all(0 < len(document) <= max_chars for document in documents)
    assert re.sub(r"\s", "", "".join(documents)) == re.sub(r"\s", "", novel)


@pytest.mark.parametrize(
    ("novel", "num_chapters"),
    list(zip([path.stem for path in _NOVELS], [55, 48, 31, 24, 61, 50], strict=True)),
)
def test_every_chapter_of_the_novels_starts_a_document(novel: str, num_chapters: int):
    text = next(path for path in _NOVELS if path.stem == novel).read_text(encoding="utf-8")
    documents = cut_into_documents(text)
    heading = re.compile(r"(VOLUME [IVX]+\s+)?(CHAPTER|Chapter) ([IVXLC]+|\d+)$", re.MULTILINE)
    assert sum(bool(heading.match(document)) for document in documents) == num_chapters
    assert re.sub(r"\s", "", "".join(documents)) == re.sub(r"\s", "", text)
    assert max(map(len, documents)) <= MAX_DOCUMENT_CHARS
