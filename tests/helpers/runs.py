"""Runs of the trainer in this process, and what they leave in it."""

import contextlib
import gc
from collections.abc import Iterator

import torch
import torch.compiler.config

from nanochat.config import TrainConfig
from nanochat.stats import Hooks, StartFacts, StepStats
from nanochat.train import train


def trained(config: TrainConfig) -> tuple[list[StepStats], list[StartFacts]]:
    """The rows of a run from its first step to its last, and the facts of each of its starts."""
    rows: list[StepStats] = []
    facts: list[StartFacts] = []
    try:
        train(config, Hooks(on_start=facts.append, on_step=rows.append))
    finally:
        gc.unfreeze()  # the trainer freezes the collector for the life of its process; this process runs many
    return rows, facts


@contextlib.contextmanager
def like_a_new_process() -> Iterator[None]:
    """A process trains one model. This one trains many, and forgets what each has compiled, set and frozen."""
    limits = torch.compiler.config.recompile_limit, torch.compiler.config.fail_on_recompile_limit_hit
    torch.compiler.reset()
    yield
    torch.compiler.reset()
    torch.compiler.config.recompile_limit, torch.compiler.config.fail_on_recompile_limit_hit = limits
    torch.use_deterministic_algorithms(False)
    gc.unfreeze()
