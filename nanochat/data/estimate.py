"""About how many tokens a text has, from its bytes alone: what a plan says before anything is read.

Of the text in the package this needs no more than the standard library; shards are looked at with pyarrow.
"""

from collections.abc import Sequence
from pathlib import Path

from nanochat.data.novels import VAL_ONE_IN, read_novels

_BYTES_PER_TOKEN = 4.48  # of the embedded text, in its own tokens
_MAX_FOOTERS = 8


def estimate_tokens(source: str | None, cache_root: Path | None = None) -> int:
    """About how many tokens the training text of a `data.source` has, from file sizes and a few footers.

    Takes milliseconds and writes nothing. Raises ConfigError if no shards can be found.
    """
    if source is None:
        num_bytes = sum(len(novel.encode()) for novel in read_novels().values())
        return round(num_bytes * (1 - 1 / VAL_ONE_IN) / _BYTES_PER_TOKEN)
    from nanochat.data import contents, shards
    from nanochat.data.cache import cache_folder
    from nanochat.data.corpus import folder_of

    paths = shards.find_shards(folder_of(source))
    known = contents.recall(paths, cache_root or cache_folder())
    if known is not None:
        return round(sum(seen.num_text_bytes for seen in known[:-1]) / _BYTES_PER_TOKEN)
    train = paths[:-1]
    seen = train[:: -(-len(train) // _MAX_FOOTERS)]
    text_bytes = 0
    for path in seen:
        with shards.open_shard(path) as file:
            text_bytes += shards.num_text_bytes(file)
    return round(text_bytes / _size(seen) * _size(train) / _BYTES_PER_TOKEN)


def _size(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())
