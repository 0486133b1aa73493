"""Text to token ids and back: BPE merges at the front of the ids, nine special tokens at their end.

rustbpe trains the merges, tiktoken applies them. The vocabulary has a fixed size whatever the text: a small corpus runs
out of merges early, the ids between the last merge and the specials are then never used, and a model of the same shape
trains on any corpus. A tokenizer is a folder of two plain files, so that opening one never runs code from it.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import rustbpe
import tiktoken

from nanochat.config import ConfigError, digest

VOCAB_SIZE = 2**15
SPECIAL_TOKENS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
# GPT-4's, but numbers fall into groups of two digits: a vocabulary this small has no room for all groups of three.
SPLIT_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"""
    r"""|\s*[\r\n]|\s+(?!\S)|\s+"""
)
_MERGES_FILE = "merges.tiktoken"  # tiktoken's own format: a line per token, base64 of its bytes and its id
_HEADER_FILE = "tokenizer.json"
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_MAX_VOCAB_SIZE = 2**31 - 1  # ids are stored as int32
BLANKS_PER_PIECE = 100_000  # a run of blanks is cut at multiples of this: the pattern's engine fails on a million


class HasTokenizer(Protocol):
    """What `load` needs of a corpus."""

    @property
    def tokenizer_dir(self) -> Path:
        """The folder that `Tokenizer.write` wrote into."""
        ...


class Tokenizer:
    """Encodes and decodes; text that spells a special token is encoded as plain text."""

    def __init__(self, merges: dict[bytes, int], *, pattern: str = SPLIT_PATTERN, vocab_size: int = VOCAB_SIZE) -> None:
        first_special = vocab_size - len(SPECIAL_TOKENS)
        if len(merges) > first_special or max(merges.values(), default=-1) >= first_special:
            raise ConfigError(
                f"{len(merges):,} merges and {len(SPECIAL_TOKENS)} special tokens do not fit into a vocabulary of "
                f"{vocab_size:,}; train with a smaller vocabulary"
            )
        self.vocab_size = vocab_size
        self.special_ids = {name: first_special + i for i, name in enumerate(SPECIAL_TOKENS)}
        self.bos_id = self.special_ids["<|bos|>"]
        self._merges = merges
        self._pattern = pattern
        self._encoding = tiktoken.Encoding(
            "nanochat", pat_str=pattern, mergeable_ranks=merges, special_tokens=self.special_ids
        )
        self._used_ids = {*merges.values(), *self.special_ids.values()}

    @property
    def num_merged_ids(self) -> int:
        """Ids that stand for bytes; those from here to the specials are unused."""
        return len(self._merges)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without BOS. Raises ConfigError for a text that the tokenizer cannot take."""
        try:
            if len(text) < BLANKS_PER_PIECE:
                return self._encoding.encode_ordinary(text)
            return [i for piece in _pieces(text) for i in self._encoding.encode_ordinary(piece)]
        except BaseException as error:  # a panic of compiled code is no Exception
            if not _is_panic(error):
                raise
            raise ConfigError(
                f"the tokenizer cannot encode a document of {len(text):,} characters that begins {text[:40]!r} "
                f"({error}); take it out of its shard"
            ) from error

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of several texts, without BOS; one thread encodes 3 to 4 million tokens a second."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; an unused id, which an untrained model may emit, reads as a replacement character."""
        parts = (self._encoding.decode_single_token_bytes(i) if i in self._used_ids else _UNKNOWN.encode() for i in ids)
        return b"".join(parts).decode("utf-8", errors="replace")

    def token_bytes(self) -> list[int]:
        """How many bytes of text each id stands for, for bits per byte; 0 for special and unused ids."""
        table = [0] * self.vocab_size
        for token, i in self._merges.items():
            table[i] = len(token)
        return table

    def write(self, folder: Path) -> None:
        """Stores the tokenizer as two plain files in a new folder."""
        folder.mkdir(parents=True)
        ordered = sorted(self._merges.items(), key=lambda item: item[1])
        lines = (f"{base64.b64encode(token).decode()} {i}\n" for token, i in ordered)
        (folder / _MERGES_FILE).write_text("".join(lines), encoding="ascii")
        header = {"pattern": self._pattern, "vocab_size": self.vocab_size, "special_tokens": list(SPECIAL_TOKENS)}
        (folder / _HEADER_FILE).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")


def _pieces(text: str) -> Iterator[str]:
    """The text, cut around each blank part of BLANKS_PER_PIECE at a multiple of it: no run is as long as two."""
    start = 0
    for at in range(0, len(text) - BLANKS_PER_PIECE + 1, BLANKS_PER_PIECE):
        if text[at : at + BLANKS_PER_PIECE].isspace():
            if start < at:
                yield text[start:at]
            yield text[at : at + BLANKS_PER_PIECE]
            start = at + BLANKS_PER_PIECE
    if start < len(text):
        yield text[start:]


def _is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"


def learn(texts: Iterable[str], *, vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Learns the merges of some texts; equal texts give equal merges."""
    trainer = rustbpe.Tokenizer()  # pyright: ignore[reportAttributeAccessIssue] - compiled, without stubs
    trainer.train_from_iterator(iter(texts), vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN)
    return Tokenizer({bytes(token): i for token, i in trainer.get_mergeable_ranks()}, vocab_size=vocab_size)


def read_from(folder: Path) -> Tokenizer:
    """The tokenizer stored in a folder. Raises ConfigError if there is none or it is damaged."""
    try:
        header: Any = json.loads((folder / _HEADER_FILE).read_text(encoding="utf-8"))
        pairs = [line.split() for line in (folder / _MERGES_FILE).read_text(encoding="ascii").splitlines()]
        merges = {base64.b64decode(token, validate=True): int(i) for token, i in pairs}
        pattern, vocab_size, specials = header["pattern"], header["vocab_size"], list(header["special_tokens"])
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder} holds no tokenizer: {Path(error.filename).name} is missing (it needs {_HEADER_FILE} and "
            f"{_MERGES_FILE}); remove the folder to have a tokenizer trained"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"the tokenizer in {folder} cannot be read ({error!r}); remove the folder") from error
    if specials != list(SPECIAL_TOKENS):
        raise ConfigError(
            f"the tokenizer in {folder} has special tokens {specials}, the model needs {list(SPECIAL_TOKENS)}; "
            "remove the folder to have a tokenizer trained"
        )
    wrong = _wrong_with(merges, len(pairs), pattern, vocab_size)
    if wrong:
        raise ConfigError(f"the tokenizer in {folder} cannot be used: {wrong}; remove the folder")
    try:
        return Tokenizer(merges, pattern=pattern, vocab_size=vocab_size)
    except BaseException as error:
        if isinstance(error, ConfigError) or not (isinstance(error, Exception) or _is_panic(error)):
            raise
        raise ConfigError(f"the tokenizer in {folder} cannot be used ({error}); remove the folder") from error


def _wrong_with(merges: dict[bytes, int], num_lines: int, pattern: Any, vocab_size: Any) -> str | None:
    """Why a stored tokenizer would not encode every text."""
    if not isinstance(pattern, str):
        return f"its pattern is {pattern!r}, not text"
    if type(vocab_size) is not int or not len(SPECIAL_TOKENS) < vocab_size <= _MAX_VOCAB_SIZE:
        return f"its vocab_size is {vocab_size!r}, not a number up to {_MAX_VOCAB_SIZE:,}"
    if len(merges) < num_lines or len(set(merges.values())) < num_lines or min(merges.values(), default=0) < 0:
        return "a token or an id is in it twice, or an id is negative"
    missing = [byte for byte in range(256) if bytes([byte]) not in merges]
    return f"{len(missing)} of the 256 bytes have no token, the first is {missing[0]}" if missing else None


def files_digest(folder: Path) -> str:
    """Of what a tokenizer's folder holds of it: equal digests, equal tokenizers. Raises ConfigError as `read` does."""
    try:
        return digest(
            [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (_HEADER_FILE, _MERGES_FILE)]
        )
    except OSError:
        read_from(folder)
        raise


def load(corpus: HasTokenizer) -> Tokenizer:
    """The tokenizer of a corpus."""
    return read_from(corpus.tokenizer_dir)
