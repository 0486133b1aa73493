"""FP8 by role: which matrices multiply in 8 bits, and how.

Linears (attention and head) are converted by torchao.float8, which quantises inside each product. Experts have their
own product (`kernels.grouped`), because a grouped product over ragged rows needs one scale per row and because their
weights are quantised once per optimizer step, not in every micro-step. The head's gradients stay in bf16 (see
FORWARD_ONLY).

Conversion is decided by role, never by a size that happens to divide. Evaluation always runs in bf16 with the same
weights: a layer in eval mode multiplies its weight directly (`project`, and moe.Experts).

torchao takes seconds to import, so only runs that convert a linear do.
"""

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.kernels.quantizing import E4M3, E5M2, QuantizedWeight

if TYPE_CHECKING:
    from torchao.float8 import Float8LinearConfig

FORWARD_ONLY = frozenset({"lm_head"})
"""The roles whose two backward products stay in bf16. The head's output gradient is rounded before everything else
reads it, and Muon, which makes all directions of a matrix' gradient equally long, lifts that noise to a full step."""


def convert_linears(model: nn.Module, recipe: str, roles: frozenset[str], emulate: bool) -> int:
    """Converts every nn.Linear whose last name is in `roles` to torchao's Float8Linear; returns how many.

    All three products of a converted linear are in FP8, of those in FORWARD_ONLY the forward one.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    from torchao.float8.float8_linear import Float8Linear

    config = dataclasses.replace(
        Float8LinearConfig.from_recipe_name(recipe), emulate=emulate, pad_inner_dim=not emulate
    )
    for some, of_some in ((roles - FORWARD_ONLY, config), (roles & FORWARD_ONLY, _forward_only(config))):
        convert_to_float8_training(
            model, config=of_some, module_filter_fn=lambda _, fqn, some=some: fqn.rsplit(".", 1)[-1] in some
        )
    return sum(isinstance(m, Float8Linear) for m in model.modules())


def _forward_only(config: "Float8LinearConfig") -> "Float8LinearConfig":
    """`config` with its operands of both backward products left as they are."""
    from torchao.float8 import CastConfig, ScalingType

    as_is, gradient_as_is = (CastConfig(scaling_type=ScalingType.DISABLED, target_dtype=d) for d in (E4M3, E5M2))
    return dataclasses.replace(
        config,
        cast_config_weight_for_grad_input=as_is,
        cast_config_input_for_grad_weight=as_is,
        cast_config_grad_output=gradient_as_is,
        cast_config_grad_output_for_grad_weight=gradient_as_is,
    )


def conversion_line(model: nn.Module, recipe: str) -> str:
    """For the log: how many matrices of which role multiply in FP8 or not; right once experts have their copies."""
    from torchao.float8.float8_linear import Float8Linear

    converted, skipped = Counter[str](), Counter[str]()
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            path, _, last = name.rpartition(".")
            owner = model.get_submodule(path)
            is_fp8 = isinstance(owner, Float8Linear) or isinstance(getattr(owner, f"{last}_fp8", None), QuantizedWeight)
            (converted if is_fp8 else skipped)[path.rpartition(".")[2] if last == "weight" else last] += 1

    def told(counts: Counter[str]) -> str:
        return f"{counts.total()} ({', '.join(f'{role} {count}' for role, count in counts.items())})"

    return f"FP8 ({recipe}): matrices converted {told(converted)}, skipped {told(skipped)}"


def project(linear: nn.Linear, x: Tensor) -> Tensor:
    """x @ weight.T: in the linear's own precision when training, in bf16 when evaluating."""
    return linear(x) if linear.training else F.linear(x, linear.weight)
