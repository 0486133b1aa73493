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
_TRAINED = tokenizer.learn([_TEXT])


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
    digits = tokenizer.learn(["1813 1813 1813 1813"])
    assert [digits.decode([i]) for i in digits.encode("1813")] == ["18", "13"]


def test_a_batch_encodes_like_its_texts():
    texts = ["a truth", "", "a wife"]
    assert _TRAINED.encode_batch(texts) == [_TRAINED.encode(text) for text in texts]


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
    again = [tokenizer.learn(texts).token_bytes() for _ in range(3)]
    assert again[0] == again[1] == again[2]


def test_a_stored_tokenizer_reads_back_the_same(tmp_path: Path):
    _TRAINED.write(tmp_path / "tokenizer")
    back = tokenizer.read_from(tmp_path / "tokenizer")
    assert back.encode(_TEXT) == _TRAINED.encode(_TEXT)
    assert (back.vocab_size, back.bos_id, back.token_bytes()) == (32_768, 32_759, _TRAINED.token_bytes())


def test_merges_that_would_reach_into_the_specials_are_refused():
    with pytest.raises(ConfigError, match="do not fit into a vocabulary of 260"):
        Tokenizer({bytes([i]): i for i in range(256)}, vocab_size=260)


def test_a_folder_without_a_tokenizer_says_which_file_is_missing(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"holds no tokenizer: tokenizer\.json is missing"):
        tokenizer.read_from(tmp_path)


@pytest.mark.parametrize("damage", ["{", '{"pattern": ""}', "[]"])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, damage: str):
    _TRAINED.write(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(damage)
    with pytest.raises(ConfigError, match="cannot be read"):
        tokenizer.read_from(tmp_path / "tokenizer")


def test_torn_merges_are_named(tmp_path: Path):
    _TRAINED.write(tmp_path / "tokenizer")
    merges = tmp_path / "tokenizer" / "merges.tiktoken"
    merges.write_text(merges.read_text()[:-4])
    with pytest.raises(ConfigError, match="cannot be read"):
        tokenizer.read_from(tmp_path / "tokenizer")


def test_other_special_tokens_are_refused(tmp_path: Path):
    _TRAINED.write(tmp_path / "tokenizer")
    header = tmp_path / "tokenizer" / "tokenizer.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"special_tokens": [*SPECIAL_TOKENS[:-1], "<|x|>"]}))
    with pytest.raises(ConfigError, match=r"<\|x\|>"):
        tokenizer.read_from(tmp_path / "tokenizer")


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"vocab_size": 2**40}, "vocab_size is 1099511627776"),
        ({"vocab_size": 10**11}, "vocab_size is 100000000000"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"vocab_size": 32768.0}, "vocab_size is 32768.0"),
        ({"pattern": None}, "pattern is None"),
        ({"pattern": "(" * 3}, "cannot be used"),
    ],
)
def test_a_tokenizer_that_another_program_wrote_is_refused_with_what_is_wrong(
    tmp_path: Path, change: dict[str, object], seen: str
):
    _TRAINED.write(tmp_path / "tokenizer")
    header = tmp_path / "tokenizer" / "tokenizer.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | change))
    with pytest.raises(ConfigError, match=seen):
        tokenizer.read_from(tmp_path / "tokenizer")


@pytest.mark.parametrize("line", ["YQ== -1", "YQ== 7", "YWE= 97", f"YWE= {2**70}"])
def test_ids_that_cannot_be_are_refused(tmp_path: Path, line: str):
    _TRAINED.write(tmp_path / "tokenizer")
    with (tmp_path / "tokenizer" / "merges.tiktoken").open("a") as merges:
        merges.write(line + "\n")
    with pytest.raises(ConfigError, match=r"the tokenizer in .* cannot be used|do not fit into a vocabulary"):
        tokenizer.read_from(tmp_path / "tokenizer")


def test_a_tokenizer_that_lacks_a_byte_is_refused(tmp_path: Path):
    Tokenizer({bytes([i]): i for i in range(255)}, vocab_size=300).write(tmp_path / "tokenizer")
    with pytest.raises(ConfigError, match="1 of the 256 bytes have no token, the first is 255"):
        tokenizer.read_from(tmp_path / "tokenizer")


@pytest.mark.parametrize("blank", [" ", "\n", "\t", " \u3000", "\r\n"])
@pytest.mark.parametrize(("before", "behind"), [("", ""), ("x", "y"), ("x" * 70_001, "y" * 70_001)])
def test_more_blanks_than_the_pattern_can_take_are_encoded(blank: str, before: str, behind: str):
    text = before + blank * (1_500_000 // len(blank)) + behind
    assert _TRAINED.decode(_TRAINED.encode(text)) == text


def test_a_long_text_without_such_a_run_is_encoded_in_one_piece(monkeypatch: pytest.MonkeyPatch):
    text = ("it is a truth " + " " * 1000) * 300
    assert len(text) > tokenizer.BLANKS_PER_PIECE
    encoded = _TRAINED.encode(text)
    monkeypatch.setattr(tokenizer, "BLANKS_PER_PIECE", len(text) + 1)
    assert encoded == _TRAINED.encode(text)


def test_a_panic_of_the_tokenizer_names_the_document(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokenizer, "BLANKS_PER_PIECE", 10**9)
    with pytest.raises(ConfigError, match=r"cannot encode a document of 1,200,002 characters that begins 'x   "):
        _TRAINED.encode("x" + " " * 1_200_000 + "y")


def test_equal_tokenizers_have_equal_digests(tmp_path: Path):
    for name, texts in (("a", ["some text"]), ("b", ["some text"]), ("c", ["other words"])):
        tokenizer.learn(texts).write(tmp_path / name)
    (tmp_path / "b" / ".DS_Store").write_bytes(b"left by a desktop")
    a, b, c = (tokenizer.files_digest(tmp_path / name) for name in "abc")
    assert a == b != c
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        tokenizer.files_digest(tmp_path)
