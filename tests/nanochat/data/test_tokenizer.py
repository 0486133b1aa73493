"""The tokenizer: ids in, text out, and a vocabulary whose size does not follow the corpus."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config import ConfigError
from nanochat.data import tokenizer
from nanochat.data.tokenizer import SPECIAL_TOKENS, Tokenizer

_TEXT = "It is a truth universally acknowledged, that a single man must be in want of a wife. " * 3
_TRAINED = tokenizer.train([_TEXT])


def test_the_vocabulary_keeps_its_size_when_the_merges_run_out():
    assert _TRAINED.vocab_size == 32_768
    assert 256 < _TRAINED.num_merged_ids < 400


def test_the_nine_specials_are_the_last_ids():
    assert _TRAINED.bos_id == 32_759
    assert list(_TRAINED.special_ids.values()) == list(range(32_759, 32_768))


def test_a_frequent_word_is_one_token():
    assert len(_TRAINED.encode(" universally")) == 1


@settings(deadline=None)
@given(st.text(max_size=60))
def test_decoding_undoes_encoding_for_any_text(text: str):
    assert _TRAINED.decode(_TRAINED.encode(text)) == text


def test_text_that_spells_a_special_token_is_plain_text():
    ids = _TRAINED.encode("<|bos|>")
    assert _TRAINED.bos_id not in ids
    assert _TRAINED.decode(ids) == "<|bos|>"


def test_numbers_split_into_groups_of_two_digits():
    digits = tokenizer.train(["1813 1813 1813 1813"])
    assert [digits.decode([i]) for i in digits.encode("1813")] == ["18", "13"]


def test_a_batch_encodes_like_its_texts_on_one_thread_and_on_several():
    texts = ["a truth", "", "a wife"]
    one_by_one = [_TRAINED.encode(text) for text in texts]
    assert _TRAINED.encode_batch(texts) == one_by_one
    assert _TRAINED.encode_batch(texts, num_threads=2) == one_by_one


def test_token_bytes_count_the_bytes_of_a_text_and_nothing_else():
    table = _TRAINED.token_bytes()
    text = "déjà vu, a single man"
    assert sum(table[i] for i in _TRAINED.encode(text)) == len(text.encode())
    assert len(table) == 32_768
    assert sum(table[_TRAINED.num_merged_ids :]) == 0


def test_an_unused_id_decodes_to_a_replacement_character_and_a_special_to_its_name():
    assert _TRAINED.decode([20_000, _TRAINED.bos_id]) == "\N{REPLACEMENT CHARACTER}<|bos|>"


def test_the_same_texts_train_the_same_merges():
    texts = [f"{word} {word}s" for word in _TEXT.split()]
    again = [tokenizer.train(texts).token_bytes() for _ in range(3)]
    assert again[0] == again[1] == again[2]


def test_a_stored_tokenizer_reads_back_the_same(tmp_path: Path):
    _TRAINED.write(tmp_path / "tokenizer")
    back = tokenizer.read(tmp_path / "tokenizer")
    assert back.encode(_TEXT) == _TRAINED.encode(_TEXT)
    assert (back.vocab_size, back.bos_id, back.token_bytes()) == (32_768, 32_759, _TRAINED.token_bytes())


def test_merges_that_would_reach_into_the_specials_are_refused():
    with pytest.raises(ConfigError, match="do not fit into a vocabulary of 260"):
        Tokenizer({bytes([i]): i for i in range(256)}, vocab_size=260)


def test_a_folder_without_a_tokenizer_says_which_file_is_missing(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"holds no tokenizer: tokenizer\.json is missing"):
        tokenizer.read(tmp_path)


@pytest.mark.parametrize("damage", ["{", '{"pattern": ""}', "[]"])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, damage: str):
    _TRAINED.write(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(damage)
    with pytest.raises(ConfigError, match="cannot be read"):
        tokenizer.read(tmp_path / "tokenizer")


def test_torn_merges_are_named(tmp_path: Path):
    _TRAINED.write(tmp_path / "tokenizer")
    merges = tmp_path / "tokenizer" / "merges.tiktoken"
    merges.write_text(merges.read_text()[:-4])
    with pytest.raises(ConfigError, match="cannot be read"):
        tokenizer.read(tmp_path / "tokenizer")


def test_other_special_tokens_are_refused(tmp_path: Path):
    _TRAINED.write(tmp_path / "tokenizer")
    header = tmp_path / "tokenizer" / "tokenizer.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"special_tokens": [*SPECIAL_TOKENS[:-1], "<|x|>"]}))
    with pytest.raises(ConfigError, match=r"<\|x\|>"):
        tokenizer.read(tmp_path / "tokenizer")
