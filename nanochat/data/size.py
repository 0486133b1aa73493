"""How much text a corpus holds: documents from the shards' footers, tokens counted, or estimated if there are many.

A sample reads row groups from all over the corpus, in an order that is always the same, until it has seen enough. What
it gave is kept in the cache folder.
"""

import contextlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.config import digest
from nanochat.data import shards
from nanochat.data.cache import cache_folder
from nanochat.data.corpus import Corpus
from nanochat.data.tokenizer import Tokenizer
from nanochat.files import write_whole

MAX_MEASURED_CHARS = 20_000_000  # some seconds of one core
_SCHEMA = "nanochat-sweep/text-size/1"


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """The training or the validation part of a corpus."""

    num_shards: int
    num_row_groups: int  # as many lanes have one of their own
    num_documents: int
    num_tokens: int  # each document with the token that begins it
    is_exact: bool  # all documents were encoded


def measure_part(part: Sequence[Path], tokenizer: Tokenizer, max_sample_chars: int = MAX_MEASURED_CHARS) -> PartSize:
    """The size of some shards, of `corpus.train_shards` or `[corpus.val_shard]`."""
    reader = shards.RowGroups(part)
    groups: list[shards.RowGroup] = []
    while (group := reader.get(len(groups))) is not None:
        groups.append(group)
    num_documents = sum(group.num_rows for group in groups)
    num_seen = num_tokens = num_chars = 0
    for group in random.Random(0).sample(groups, len(groups)):
        if num_chars >= max_sample_chars:
            break
        texts = reader.read(group)
        num_seen += len(texts)
        num_chars += sum(map(len, texts))
        num_tokens += sum(len(ids) + 1 for ids in tokenizer.encode_batch(texts))
    is_exact = num_seen == num_documents
    return PartSize(
        num_shards=len(part),
        num_row_groups=len(groups),
        num_documents=num_documents,
        num_tokens=num_tokens if is_exact else round(num_tokens * num_documents / num_seen),
        is_exact=is_exact,
    )


def measure_corpus(corpus: Corpus, tokenizer: Tokenizer) -> tuple[PartSize, PartSize]:
    """Training and validation."""
    return measure_part(corpus.train_shards, tokenizer), measure_part([corpus.val_shard], tokenizer)


def count_tokens(corpus: Corpus, tokenizer: Tokenizer, cache_root: Path | None = None) -> int:
    """Tokens of the training text, as `measure` has them; measured once."""
    kept = (cache_root or cache_folder()) / f"size-{digest([corpus.digest, MAX_MEASURED_CHARS])[:16]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        stored: Any = json.loads(kept.read_bytes())
        if stored["schema"] == _SCHEMA:
            return int(stored["train_tokens"])
    num_tokens = measure_part(corpus.train_shards, tokenizer).num_tokens
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps({"schema": _SCHEMA, "train_tokens": num_tokens}).encode())
    return num_tokens
