"""From the roles of a model's parameters to the optimizer's specs: which update, at which peak rate for this run."""

import torch
from torch import nn

from nanochat.config import OptimConfig
from nanochat.model.gpt import GPT
from nanochat.model.roles import role_of
from nanochat.optimizer.groups import ParamSpec
from nanochat.optimizer.schedule import batch_lr_scale, width_lr_scale


def param_specs(model: GPT, optim: OptimConfig, total_batch_tokens: int) -> list[ParamSpec]:
    """One spec for every parameter, in the model's order. Raises UnknownParameterError for one without a role."""
    batch_scale, width_scale = batch_lr_scale(total_batch_tokens), width_lr_scale(model.config.model.width)
    return [_spec(name, param, optim, batch_scale, width_scale) for name, param in model.named_parameters()]


def _spec(name: str, param: nn.Parameter, optim: OptimConfig, batch_scale: float, width_scale: float) -> ParamSpec:
    role = role_of(name)
    update = role.update
    scale = batch_scale * width_scale if update.follows_width else batch_scale
    return ParamSpec(
        name=name,
        param=param,
        kind=update.optimizer,
        lr=getattr(optim, update.rate) * scale * update.damping,
        group=role.name if update.optimizer == "adamw" else "",
        betas=update.betas or (optim.adam_beta1, optim.adam_beta2),
        dtype=torch.float32 if update.in_fp32 else None,
        master=update.keeps_master,
    )


def peak_matrix_lr(optim: OptimConfig, total_batch_tokens: int) -> float:
    """Muon's peak rate for the layers' matrices in this run, before the factor of a matrix's shape."""
    return optim.matrix_lr * batch_lr_scale(total_batch_tokens)
