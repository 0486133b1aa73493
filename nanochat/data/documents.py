"""A novel becomes documents that fit into a training row.

The loader packs whole documents into rows and throws away what it has to crop, so a chapter of ten thousand tokens
would lose most of its text. A document here is a run of whole paragraphs of one chapter, short enough for a row. The
bound counts characters: it needs no tokenizer, so the tokenizer can be trained on the documents of one split alone.
"""

import itertools
import re
from collections.abc import Iterator

MAX_DOCUMENT_CHARS = 3300  # about 750 tokens of English prose

_CHAPTER = re.compile(r"^(?:VOLUME [IVXLC]+\s+)?(?:CHAPTER|Chapter) (?:[IVXLC]+|\d+)\.?[ \t]*$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")


def cut_into_documents(novel: str, max_chars: int = MAX_DOCUMENT_CHARS) -> list[str]:
    """Documents of at most `max_chars`, in order: cut at paragraph ends, and always where a chapter starts."""
    starts = [0, *(match.start() for match in _CHAPTER.finditer(novel)), len(novel)]
    chapters = (novel[start:end] for start, end in itertools.pairwise(starts))
    return [document for chapter in chapters for document in _cut_chapter(chapter, max_chars)]


def _cut_chapter(chapter: str, max_chars: int) -> Iterator[str]:
    document = ""
    for piece, joint in _pieces(chapter, max_chars):
        if document and len(document) + len(joint) + len(piece) > max_chars:
            yield document
            document = piece
        else:
            document = document + joint + piece if document else piece
    if document:
        yield document


def _pieces(chapter: str, max_chars: int) -> Iterator[tuple[str, str]]:
    """Paragraphs with the blank line before them; a paragraph that is too long alone comes as its single lines."""
    for paragraph in _BLANK_LINES.split(chapter.strip()):
        if len(paragraph) <= max_chars:
            if paragraph:
                yield paragraph, "\n\n"
            continue
        for number, line in enumerate(paragraph.split("\n")):
            for start in range(0, len(line), max_chars):
                yield line[start : start + max_chars], "\n\n" if number == start == 0 else "\n" if start == 0 else ""
