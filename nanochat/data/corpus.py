"""What text a run reads: Parquet shards of documents, the last one for validation, and their tokenizer.

With no source named it is the embedded corpus, six novels that are cut into documents and shards on first use. Its
documents are ordered by a hash of where they come from, so all shards mix all novels and nothing depends on a random
generator. A folder of shards in the same format is opened in place; only its tokenizer is made, from a bounded sample.

What is made lies in the cache folder under a digest of what it is made from. It is built in a temporary folder and
renamed: a folder of the final name is whole. Processes that start together wait for one of them to build; the lock
only saves work, the rename alone makes it safe, and a killed process leaves nothing in the way.
"""

import contextlib
import fcntl
import hashlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nanochat.config import ConfigError, digest
from nanochat.data import documents, shards, tokenizer

_NOVELS_DIR = Path(__file__).parent / "austen"
_LAYOUT_VERSION = 1  # raise it when the same novels shall give other shards
_NUM_TRAIN_SHARDS = 4
_NUM_TRAIN_ROW_GROUPS = 128  # as many lanes have a row group of their own
_NUM_VAL_ROW_GROUPS = 8
_VAL_ONE_IN = 16
_MAX_SAMPLE_CHARS = 200_000_000  # of a folder's training documents, to train its tokenizer
_MAX_SAMPLE_CHARS_PER_DOCUMENT = 10_000
_ABANDONED_AFTER_S = 3600.0

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Corpus:
    """Shards and tokenizer of one body of text. Equal digests: shards of equal names and sizes, equal tokenizers."""

    name: str
    digest: str
    train_shards: tuple[Path, ...]
    val_shard: Path
    tokenizer_dir: Path


def open_corpus(source: str | None) -> Corpus:
    """The corpus that a config's `data.source` names; None is the embedded one."""
    return prepare_embedded() if source is None else open_folder(source)


def cache_folder() -> Path:
    """Where made corpora and tokenizers lie: NANOCHAT_CACHE, else nanochat-sweep in the user's cache folder."""
    if own := os.environ.get("NANOCHAT_CACHE"):
        return Path(own).expanduser()
    general = os.environ.get("XDG_CACHE_HOME")
    return (Path(general) if general else Path.home() / ".cache") / "nanochat-sweep"


def prepare_embedded(cache_root: Path | None = None) -> Corpus:
    """The six novels as a corpus; built on first use."""
    novels = {path.stem: path.read_text(encoding="utf-8") for path in sorted(_NOVELS_DIR.glob("*.txt"))}
    if not novels:
        raise ConfigError(f"the embedded corpus is missing: no novels in {_NOVELS_DIR}; install nanochat-sweep again")
    layout = [_LAYOUT_VERSION, documents.MAX_DOCUMENT_CHARS, tokenizer.VOCAB_SIZE]
    full_digest = digest([layout, {name: hashlib.sha256(text.encode()).hexdigest() for name, text in novels.items()}])
    names = tuple(f"shard_{i:05d}.parquet" for i in range(_NUM_TRAIN_SHARDS + 1))
    folder = _built_once(
        cache_root or cache_folder(),
        f"austen-{full_digest[:8]}",
        needs=(*names, "tokenizer"),
        build=lambda target: _build_embedded(novels, target, names),
    )
    *train, val = (folder / name for name in names)
    return Corpus("austen", full_digest, tuple(train), val, folder / "tokenizer")


def _build_embedded(novels: dict[str, str], folder: Path, names: Sequence[str]) -> None:
    train, val = split_documents(novels)
    groups = _even_parts(train, _NUM_TRAIN_ROW_GROUPS)
    for name, of_shard in zip(names[:-1], _even_parts(groups, _NUM_TRAIN_SHARDS), strict=True):
        shards.write_shard(folder / name, of_shard)
    shards.write_shard(folder / names[-1], _even_parts(val, _NUM_VAL_ROW_GROUPS))
    tokenizer.train(train).write(folder / "tokenizer")


def split_documents(novels: dict[str, str]) -> tuple[list[str], list[str]]:
    """Training and validation documents, mixed: ordered by a hash of novel and place, the last ones for validation."""
    placed = [
        (hashlib.sha256(f"{name}:{i}".encode()).digest(), document)
        for name, novel in novels.items()
        for i, document in enumerate(documents.cut_into_documents(novel))
    ]
    ordered = [document for _, document in sorted(placed)]
    num_val = len(ordered) // _VAL_ONE_IN
    return ordered[:-num_val], ordered[-num_val:]


def _even_parts(items: Sequence[_Item], num_parts: int) -> list[Sequence[_Item]]:
    bounds = [len(items) * i // num_parts for i in range(num_parts + 1)]
    return [items[start:end] for start, end in itertools.pairwise(bounds)]


def open_folder(path: str | Path, cache_root: Path | None = None) -> Corpus:
    """A folder of Parquet shards in order of their names, the last one for validation.

    Its tokenizer is the one in its `tokenizer` folder; without one it is trained and kept in the cache.
    """
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"the data folder {folder} does not exist; give a folder of Parquet shards, or no folder")
    paths = sorted(folder.glob("*.parquet"))
    if len(paths) < 2:
        seen = "no *.parquet file" if not paths else f"only {paths[0].name}"
        raise ConfigError(
            f"the data folder {folder} holds {seen}; it needs two shards or more, the last one is for validation"
        )
    *train, val = paths
    for part, those in (("training", [*train]), ("validation", [val])):
        if not any(shards.open_shard(shard).metadata.num_rows for shard in those):
            raise ConfigError(f"the {part} shards of {folder} hold no documents ({those[0].name} to {those[-1].name})")
    members = [[member.name, member.stat().st_size] for member in paths]
    full_digest = digest(members)
    own_tokenizer = folder / "tokenizer"
    if own_tokenizer.is_dir():  # a packing buffer in a checkpoint holds its ids
        files = sorted(file for file in own_tokenizer.iterdir() if file.is_file())
        members += [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
        return Corpus(folder.name, digest(members), tuple(train), val, own_tokenizer)
    sample = [full_digest, tokenizer.VOCAB_SIZE, _MAX_SAMPLE_CHARS, _MAX_SAMPLE_CHARS_PER_DOCUMENT]
    made = _built_once(
        cache_root or cache_folder(),
        f"tokenizer-{digest(sample)[:8]}",
        needs=("tokenizer",),
        build=lambda target: tokenizer.train(_sample(train)).write(target / "tokenizer"),
    )
    return Corpus(folder.name, full_digest, tuple(train), val, made / "tokenizer")


def _sample(train_shards: Sequence[Path]) -> Iterator[str]:
    """Training documents in order, long ones cut, up to a bound: the same ones every time."""
    groups = shards.RowGroups(train_shards)
    num_chars_left = _MAX_SAMPLE_CHARS
    number = 0
    while (group := groups.get(number)) is not None:
        for text in groups.read(group):
            yield text[:_MAX_SAMPLE_CHARS_PER_DOCUMENT]
            num_chars_left -= min(len(text), _MAX_SAMPLE_CHARS_PER_DOCUMENT)
            if num_chars_left <= 0:
                return
        number += 1


def _built_once(root: Path, name: str, *, needs: Sequence[str], build: Callable[[Path], None]) -> Path:
    """The folder `root/name`, built if it is not there; `needs` are the entries that make it whole."""
    folder = root / name
    if _is_whole(folder, needs):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _only_builder(root / f".{name}.lock"):
            if not _is_whole(folder, needs):
                _clear_away(root, name, folder)
                temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
                try:
                    build(temporary)
                    _publish(temporary, folder, needs)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"the cache folder {root} cannot be written ({error.strerror or error}); "
            "set NANOCHAT_CACHE to a folder with room that you may write"
        ) from error
    return folder


def _is_whole(folder: Path, needs: Sequence[str]) -> bool:
    return all((folder / entry).exists() for entry in needs)


@contextlib.contextmanager
def _only_builder(lock: Path) -> Iterator[None]:
    """Holds a lock that the kernel frees when its process dies; goes on without one where locks are not supported."""
    with lock.open("w") as handle:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _clear_away(root: Path, name: str, folder: Path) -> None:
    """Removes a damaged folder of the final name and what killed builders left long ago."""
    leftovers = [path for path in root.glob(f".{name}-*") if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S]
    if folder.exists():
        damaged = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root)) / "damaged"
        folder.rename(damaged)
        leftovers.append(damaged.parent)
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)


def _publish(temporary: Path, folder: Path, needs: Sequence[str]) -> None:
    """Makes a built folder appear under its name, whole; if somebody else's is there already, that one stays."""
    for path in sorted(temporary.rglob("*"), reverse=True):
        _flush(path)
    _flush(temporary)
    temporary.chmod(0o755)
    try:
        temporary.rename(folder)
    except OSError:
        if not _is_whole(folder, needs):
            raise
    _flush(folder.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
