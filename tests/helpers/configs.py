"""Configs at the two sizes that tests train: one for a CPU in a second, one for a card."""

from pathlib import Path
from typing import Any

from nanochat.config import TrainConfig, with_overrides
from nanochat.recipes import d12_moe

MICRO_BATCH_TOKENS = 64
FP8 = {"precision.linears": "fp8", "precision.experts": "fp8"}

_TINY: dict[str, Any] = {
    "model.depth": 2,
    "model.aspect_ratio": 32,
    "model.head_dim": 16,
    "model.seq_len": 32,
    "model.vocab_size": 300,  # that of the fixture small_text
    "moe.num_experts": 4,
    "compile.mode": "none",
    "data.device_batch_size": 2,
    "data.total_batch_tokens": 2 * MICRO_BATCH_TOKENS,
    "run.device": "cpu",
}
_CARD: dict[str, Any] = {
    "model.depth": 4,
    "model.aspect_ratio": 32,
    "model.head_dim": 64,
    "model.seq_len": 256,
    "compile.mode": "none",
    "data.device_batch_size": 4,
    "data.total_batch_tokens": 2048,
    "run.device": "cuda",
}


def tiny_config(folder: str | Path | None = None, /, **overrides: Any) -> TrainConfig:
    """Two layers of width 64 with 4 experts, uncompiled, 4 steps of two micro-batches of 64 tokens, on the CPU.

    `overrides` are by dotted path, as in `**{"moe.top_k": 1}`.
    """
    source = {} if folder is None else {"data.source": str(folder)}
    return with_overrides(d12_moe(num_steps=4), _TINY | source | overrides)


def card_config(**overrides: Any) -> TrainConfig:
    """Four layers of width 128, uncompiled, 6 steps of two micro-batches of 1,024 tokens, on the first GPU."""
    return with_overrides(d12_moe(num_steps=6), _CARD | overrides)
