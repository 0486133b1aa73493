"""How much text there is: counted where it is little, estimated where it is much."""

from pathlib import Path

import pytest

from nanochat.data import tokenizer
from nanochat.data.shards import write_shard
from nanochat.data.size import measure_part
from nanochat.data.tokenizer import Tokenizer


@pytest.fixture
def letters() -> Tokenizer:
    """One token per letter: no merges but the bytes."""
    return tokenizer.learn(["abc"], vocab_size=256 + len(tokenizer.SPECIAL_TOKENS))


def test_little_text_is_counted_with_a_beginning_for_each_document(tmp_path: Path, letters: Tokenizer) -> None:
    write_shard(tmp_path / "a.parquet", [["abc", "a"], ["bb"]])
    write_shard(tmp_path / "b.parquet", [["c"]])
    size = measure_part([tmp_path / "a.parquet", tmp_path / "b.parquet"], letters)
    assert (size.num_shards, size.num_row_groups, size.num_documents) == (2, 3, 4)
    assert (size.num_tokens, size.is_exact) == (7 + 4, True)


def test_much_text_is_estimated_from_a_sample(tmp_path: Path, letters: Tokenizer) -> None:
    write_shard(tmp_path / "a.parquet", [["abcd"] * 10 for _ in range(20)])
    size = measure_part([tmp_path / "a.parquet"], letters, max_sample_chars=100)
    assert (size.num_documents, size.num_tokens, size.is_exact) == (200, 1000, False)
