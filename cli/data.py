"""`data`: the text that sweeps train on, prepared now instead of by the first leg, and how much of it there is."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import AsJson
from sweeps.spec.words import counted

if TYPE_CHECKING:
    from nanochat.data.corpus import Corpus
    from nanochat.data.size import PartSize
    from nanochat.data.tokenizer import Tokenizer


def data(
    source: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of Parquet shards. Default: the text in the package."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prepare the text and its tokenizer, and describe them."""
    from cli.console import note, out
    from nanochat.data.cache import cache_folder
    from nanochat.data.corpus import open_corpus
    from nanochat.data.size import measure_corpus
    from nanochat.data.tokenizer import load

    note(f"preparing what is not in {cache_folder()} yet")
    corpus = open_corpus(source)
    tokenizer = load(corpus)
    train, val = measure_corpus(corpus, tokenizer)
    if as_json:
        out(json.dumps(data_json(corpus, tokenizer, train, val), indent=2, ensure_ascii=False))
    else:
        out(description(corpus, tokenizer, train, val))


def data_json(corpus: "Corpus", tokenizer: "Tokenizer", train: "PartSize", val: "PartSize") -> dict[str, Any]:
    """The same as `--json` prints it."""
    parts = {"training": train, "validation": val}
    return {
        "schema": "nanochat-sweep/data/1",
        "corpus": corpus.name,
        "digest": corpus.digest,
        "folder": str(corpus.val_shard.parent),
        **{
            name: {
                "shards": part.num_shards,
                "row_groups": part.num_row_groups,
                "documents": part.num_documents,
                "tokens": part.num_tokens,
                "is_exact": part.is_exact,
            }
            for name, part in parts.items()
        },
        "tokenizer": {
            "folder": str(corpus.tokenizer_dir),
            "vocab_size": tokenizer.vocab_size,
            "used_ids": tokenizer.num_merged_ids,
        },
    }


def description(corpus: "Corpus", tokenizer: "Tokenizer", train: "PartSize", val: "PartSize") -> str:
    """What people want to know of a corpus, a line each."""
    how = "counted" if train.is_exact and val.is_exact else "estimated from a sample"
    groups = counted(train.num_row_groups, "row group")
    lines = {
        "corpus": corpus.name,
        "digest": corpus.digest,
        "folder": str(corpus.val_shard.parent),
        "shards": f"{train.num_shards:,} for training with {groups}, 1 for validation",
        "documents": f"{train.num_documents:,} for training, {val.num_documents:,} for validation",
        "tokens": f"{train.num_tokens:,} for training, {val.num_tokens:,} for validation ({how})",
        "tokenizer": f"{corpus.tokenizer_dir} ({tokenizer.vocab_size:,} ids, {tokenizer.num_merged_ids:,} in use)",
    }
    return "\n".join(f"{name:<11}{value}" for name, value in lines.items())
