"""What text a run reads: Parquet shards of documents, the last one for validation, and their tokenizer.

With no source named it is the embedded corpus, six novels that are cut into documents and shards on first use. Its
documents are ordered by a hash of where they come from, so all shards mix all novels and nothing depends on a random
generator. A folder of shards in the same format is opened in place; only its tokenizer is made, from a bounded sample.

Runs are comparable if their text and their tokenizer have equal digests. That of a folder is of its shards' bytes in
their order, whatever they are called; that of the embedded text is of the novels, because its shards are made from them
by whichever version of Parquet is installed.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nanochat.config import ConfigError, TextError, digest
from nanochat.data import contents, documents, shards, tokenizer
from nanochat.data.cache import built_once, cache_folder
from nanochat.data.contents import Contents
from nanochat.data.novels import VAL_ONE_IN, read_novels
from nanochat.stats import TextFacts

_LAYOUT_VERSION = 1  # raise it when the same novels must give other shards
_NUM_TRAIN_SHARDS = 4
_NUM_TRAIN_ROW_GROUPS = 128  # as many lanes have their own row group
_NUM_VAL_ROW_GROUPS = 8
MAX_SAMPLE_CHARS = 200_000_000  # of a folder's training documents, to train its tokenizer
MAX_SAMPLE_CHARS_PER_DOCUMENT = 10_000
_MADE_OF = "made.json"  # sha256 of each file that was built

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Shards and tokenizer of one body of text."""

    name: str
    text_digest: str  # equal digests, equal text in equal order
    tokenizer_digest: str
    older_digest: str  # what versions that did not look at contents wrote into their checkpoints
    train_shards: tuple[Path, ...]
    val_shard: Path
    tokenizer_dir: Path

    @property
    def digest(self) -> str:
        """Of text and tokenizer: runs of equal digests see equal tokens."""
        return digest([self.text_digest, self.tokenizer_digest])

    def facts(self) -> TextFacts:
        """What an attempt records about its text."""
        return TextFacts(
            text_digest=self.text_digest,
            tokenizer_digest=self.tokenizer_digest,
            num_text_shards=len(self.train_shards) + 1,
        )


def open_corpus(source: str | None) -> Corpus:
    """The corpus that a config's `data.source` names; None is the embedded one.

    The first time all of its text is read, and a tokenizer can be trained. Raises TextError for what is missing or
    cannot be trained on.
    """
    try:
        return prepare_embedded() if source is None else open_folder(source)
    except ConfigError as error:
        raise TextError(str(error)) from error


def prepare_embedded(cache_root: Path | None = None) -> Corpus:
    """The six novels as a corpus; built on first use, and again if its files are not what was built."""
    root = cache_root or cache_folder()
    novels = read_novels()
    layout = [_LAYOUT_VERSION, documents.MAX_DOCUMENT_CHARS, tokenizer.VOCAB_SIZE]
    full_digest = digest([layout, {name: hashlib.sha256(text.encode()).hexdigest() for name, text in novels.items()}])
    names = tuple(f"shard_{i:05d}.parquet" for i in range(_NUM_TRAIN_SHARDS + 1))
    folder = built_once(
        root,
        f"austen-{full_digest[:12]}",
        is_whole=lambda built: _is_as_built(built, names, root),
        build=lambda target: _build_embedded(novels, target, names),
    )
    *train, val = (folder / name for name in names)
    return Corpus(
        name="austen",
        text_digest=full_digest,
        tokenizer_digest=tokenizer.files_digest(folder / "tokenizer"),
        older_digest=full_digest,
        train_shards=tuple(train),
        val_shard=val,
        tokenizer_dir=folder / "tokenizer",
    )


def _build_embedded(novels: dict[str, str], folder: Path, names: Sequence[str]) -> None:
    train, val = split_documents(novels)
    groups = _even_parts(train, _NUM_TRAIN_ROW_GROUPS)
    for name, of_shard in zip(names[:-1], _even_parts(groups, _NUM_TRAIN_SHARDS), strict=True):
        shards.write_shard(folder / name, of_shard)
    shards.write_shard(folder / names[-1], _even_parts(val, _NUM_VAL_ROW_GROUPS))
    tokenizer.learn(train).write(folder / "tokenizer")
    made = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    (folder / _MADE_OF).write_text(json.dumps([*made, tokenizer.files_digest(folder / "tokenizer")]))


def _is_as_built(folder: Path, names: Sequence[str], root: Path) -> bool:
    """True if shards and tokenizer are there and hold what was built."""
    try:
        made: Any = json.loads((folder / _MADE_OF).read_bytes())
        found = [seen.sha256 for seen in contents.look_at([folder / name for name in names], root)]
        return made == [*found, tokenizer.files_digest(folder / "tokenizer")]
    except (OSError, ValueError, ConfigError):
        return False


def split_documents(novels: dict[str, str]) -> tuple[list[str], list[str]]:
    """Training and validation documents, mixed: ordered by a hash of novel and place, the last ones for validation."""
    placed = [
        (hashlib.sha256(f"{name}:{i}".encode()).digest(), document)
        for name, novel in novels.items()
        for i, document in enumerate(documents.cut_into_documents(novel))
    ]
    ordered = [document for _, document in sorted(placed)]
    num_val = len(ordered) // VAL_ONE_IN
    return ordered[:-num_val], ordered[-num_val:]


def _even_parts(items: Sequence[_Item], num_parts: int) -> list[Sequence[_Item]]:
    bounds = [len(items) * i // num_parts for i in range(num_parts + 1)]
    return [items[start:end] for start, end in itertools.pairwise(bounds)]


def open_folder(path: str | Path, cache_root: Path | None = None) -> Corpus:
    """A folder of Parquet shards in order of their names, the last one for validation.

    Its tokenizer is the one in its `tokenizer` folder; without one it is trained and kept in the cache.
    """
    root = cache_root or cache_folder()
    folder = folder_of(path)
    paths = shards.find_shards(folder)
    found = contents.look_at(paths, root)
    *train, val = paths
    _check_has_text("training", train, found[:-1])
    _check_has_text("validation", [val], found[-1:])
    text_digest = digest([seen.sha256 for seen in found])
    own_tokenizer = folder / "tokenizer"
    has_own = own_tokenizer.is_dir()  # a packing buffer in a checkpoint holds its ids
    tokenizer_dir = own_tokenizer if has_own else _made_tokenizer(train, text_digest, root)
    return Corpus(
        name=folder.name,
        text_digest=text_digest,
        tokenizer_digest=tokenizer.files_digest(tokenizer_dir),
        older_digest=_older_digest(paths, own_tokenizer if has_own else None),
        train_shards=tuple(train),
        val_shard=val,
        tokenizer_dir=tokenizer_dir,
    )


def folder_of(source: str | Path) -> Path:
    """The folder that a config's `data.source` names, as an absolute path."""
    return Path(source).expanduser().absolute()


def _check_has_text(part: str, paths: Sequence[Path], found: Sequence[Contents]) -> None:
    if not any(seen.has_text for seen in found):
        which = paths[0].name if len(paths) == 1 else f"{paths[0].name} to {paths[-1].name}"
        num = sum(seen.num_documents for seen in found)
        seen = f"{num:,} documents, all of them empty" if num else "no documents"
        raise ConfigError(
            f"the {part} text of {paths[0].parent} ({which}) holds {seen}; "
            f"give shards whose column {shards.TEXT_COLUMN!r} holds text, the last one is for validation"
        )


def _made_tokenizer(train: Sequence[Path], text_digest: str, root: Path) -> Path:
    sample = [text_digest, tokenizer.VOCAB_SIZE, MAX_SAMPLE_CHARS, MAX_SAMPLE_CHARS_PER_DOCUMENT]
    made = built_once(
        root,
        f"tokenizer-{digest(sample)[:8]}",
        is_whole=lambda built: (built / "tokenizer").exists(),
        build=lambda target: tokenizer.learn(sample_of(train)).write(target / "tokenizer"),
    )
    return made / "tokenizer"


def _older_digest(paths: Sequence[Path], own_tokenizer: Path | None) -> str:
    """Of names and sizes, and of the tokenizer's files."""
    members: list[list[Any]] = [[member.name, member.stat().st_size] for member in paths]
    if own_tokenizer is not None:
        files = sorted(file for file in own_tokenizer.iterdir() if file.is_file())
        members += [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    return digest(members)


def sample_of(train_shards: Sequence[Path]) -> Iterator[str]:
    """Training documents in order, long ones cut, up to a bound: the same ones every time."""
    groups = shards.RowGroups(train_shards)
    num_chars_left = MAX_SAMPLE_CHARS
    number = 0
    while (group := groups.get(number)) is not None:
        for text in groups.read(group):
            yield text[:MAX_SAMPLE_CHARS_PER_DOCUMENT]
            num_chars_left -= min(len(text), MAX_SAMPLE_CHARS_PER_DOCUMENT)
            if num_chars_left <= 0:
                return
        number += 1
