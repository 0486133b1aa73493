"""Which optimizer trains which parameter, and at which peak rate.

Muon takes the matrices of the blocks, AdamW the rest: tables, head, scalars and the router, whose rows are too few and
too important for Muon's equalised updates (a router driven hard is worse than a frozen random one).
"""

from collections.abc import Callable
from functools import partial

import torch

from nanochat.config import OptimConfig
from nanochat.model.gpt import GPT
from nanochat.optimizer.schedule import batch_lr_scale, width_lr_scale
from nanochat.optimizer.sharded import ParamSpec

_SCALAR_DAMPING = 0.01  # a residual scale multiplies the whole stream, so it moves a hundred times slower
_ROUTER_DAMPING = 0.1  # at the head's rate a router collapses onto few experts before the balance loss can answer
_EMBEDDING_SCALE_BETAS = (0.96, 0.95)


def param_specs(model: GPT, optim: OptimConfig, total_batch_tokens: int) -> list[ParamSpec]:
    """One spec for every parameter, in the model's order."""
    scale = batch_lr_scale(total_batch_tokens)
    table_scale = scale * width_lr_scale(model.config.model.width)
    head_lr = optim.unembedding_lr * table_scale
    betas = (optim.adam_beta1, optim.adam_beta2)
    embedding = partial(ParamSpec, kind="adamw", betas=betas, lr=optim.embedding_lr * table_scale, master=False)
    head = partial(ParamSpec, kind="adamw", betas=betas, lr=head_lr)
    scalar = partial(ParamSpec, kind="adamw", dtype=torch.float32)
    damped, undamped = optim.scalar_lr * scale * _SCALAR_DAMPING, optim.scalar_lr * scale
    kinds: dict[str, Callable[..., ParamSpec]] = {
        "wte": partial(embedding, group="wte"),
        "value_embed": partial(embedding, group="value_embed"),
        "lm_head": partial(head, group="lm_head"),
        "router": partial(head, group="router", dtype=torch.float32, lr=head_lr * _ROUTER_DAMPING),
        "residual_scale": partial(scalar, group="residual_scale", betas=betas, lr=damped),
        "embedding_scale": partial(scalar, group="embedding_scale", betas=_EMBEDDING_SCALE_BETAS, lr=undamped),
    }
    matrix = partial(ParamSpec, kind="muon", lr=optim.matrix_lr * scale)
    return [
        kinds.get(name.removesuffix(".weight").rsplit(".", 1)[-1], matrix)(name=name, param=param)
        for name, param in model.named_parameters()
    ]
