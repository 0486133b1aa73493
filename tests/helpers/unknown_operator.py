"""A norm that runs and that the compiler knows nothing about: a model with it trains, and cannot be compiled."""

from typing import Any

import torch
from torch import Tensor

from nanochat.model import gpt

_REAL_NORM = gpt.norm  # a test puts the other one in its place


@torch.library.custom_op("nanochat_test::norm", mutates_args=())
def norm_of_unknown_shape(x: Tensor) -> Tensor:
    """The model's own norm."""
    return _REAL_NORM(x)


@norm_of_unknown_shape.register_fake
def _(x: Tensor) -> Tensor:
    raise NotImplementedError("no one has thought about shapes")


def _norm_backward(ctx: Any, grad: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(_REAL_NORM(leaf), leaf, grad)[0]


norm_of_unknown_shape.register_autograd(
    _norm_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0])
)
