"""FP8 by role: which matrices multiply in 8 bits, and how.

Linears (attention, head, the MLP of layers without experts) are converted by torchao.float8, which quantises inside
each product. Experts have their own product (`kernels.grouped`), because a grouped product over ragged rows needs one
scale per row and because their weights are quantised once per optimizer step, not in every micro-step. `roles` says
which setting each matrix follows, and that the head's gradients stay in bf16.

Conversion is decided by role, never by a size that happens to divide. Evaluation always runs in bf16 with the same
weights: a layer in eval mode multiplies its weight directly (`project`, and moe.Experts).

torchao takes seconds to import, so only runs that convert a linear do.
"""

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.config import PrecisionConfig
from nanochat.kernels import totals
from nanochat.kernels.hopper_layers import Fp8Experts, Fp8Linears, fp8_linears
from nanochat.kernels.quantizing import E4M3, E5M2, QuantizedWeight
from nanochat.model.kernel_choice import Kernels
from nanochat.model.roles import ROLES, multiplies_in_fp8, role_of

if TYPE_CHECKING:
    from torchao.float8 import Float8LinearConfig


def convert_linears(model: nn.Module, precision: PrecisionConfig, emulate: bool) -> int:
    """Converts every nn.Linear whose role is to multiply in FP8 to torchao's Float8Linear; returns how many.

    Not for a model whose FP8 products QuACK makes (`QuackLinears`).

    All three products of a converted linear are in FP8, or the forward one alone, as its role says. Without a role in
    FP8 torchao is not imported.
    """
    chosen = [role for role in ROLES if role.fp8 != "experts" and multiplies_in_fp8(role, precision)]
    if not chosen:
        return 0
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    from torchao.float8.float8_linear import Float8Linear

    config = dataclasses.replace(
        Float8LinearConfig.from_recipe_name(precision.recipe), emulate=emulate, pad_inner_dim=not emulate
    )
    for backward, of_some in ((True, config), (False, _forward_only(config))):
        some = {role for role in chosen if role.fp8_backward == backward}
        convert_to_float8_training(
            model, config=of_some, module_filter_fn=lambda _, name, some=some: role_of(name) in some
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


class QuackLinears(nn.Module):
    """FP8 linears of one input by QuACK, as one product: their copies, which the first refresh allocates."""

    def __init__(self, *, normed: bool, backward: bool) -> None:
        super().__init__()
        self._normed, self._backward = normed, backward
        self.fp8: Fp8Linears | None = None
        self._served: set[int] = set()

    @staticmethod
    def wanted(role: str, precision: PrecisionConfig, kernels: Kernels, *, normed: bool) -> "QuackLinears | None":
        """Such linears if the role's product is to be in FP8 and QuACK makes it. `normed`: their input is RMSNorm's."""
        found = role_of(role)
        if not (kernels.makes_fp8(precision) and multiplies_in_fp8(found, precision)):
            return None
        return QuackLinears(normed=normed, backward=found.fp8_backward)

    @torch.no_grad()
    def refresh(self, *linears: nn.Linear) -> None:
        """Quantises the present weights of these linears, always the same ones."""
        weights = [linear.weight for linear in linears]
        if self.fp8 is None:
            self.fp8 = Fp8Linears(weights, normed=self._normed, backward=self._backward)
            self._served = {id(linear) for linear in linears}
        self.fp8.refresh(weights)

    def serves(self, linear: nn.Module) -> bool:
        """True if this is where the linear's product is made."""
        return id(linear) in self._served

    def forward(self, x: Tensor, *linears: nn.Linear, total: Tensor | None = None) -> Tensor:
        """x (..., K) -> the linears' products side by side (..., M); `total` is that of `fp8_linears`."""
        assert self.fp8 is not None, "refresh comes first"
        out = fp8_linears(x.reshape(-1, x.shape[-1]), [linear.weight for linear in linears], self.fp8, total)
        return out.view(*x.shape[:-1], out.shape[-1])


def conversion_line(model: nn.Module, recipe: str) -> str:
    """For the log: how many matrices of which role multiply in FP8 or not; right once experts have their copies."""
    from torchao.float8.float8_linear import Float8Linear

    by_quack = [module for module in model.modules() if isinstance(module, QuackLinears)]
    converted, skipped = Counter[str](), Counter[str]()
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            path, _, last = name.rpartition(".")
            owner = model.get_submodule(path)
            is_fp8 = (
                isinstance(owner, Float8Linear)
                or isinstance(getattr(owner, f"{last}_fp8", None), QuantizedWeight)
                or isinstance(getattr(owner, "fp8", None), Fp8Experts)
                or any(quack.serves(owner) for quack in by_quack)
            )
            (converted if is_fp8 else skipped)[role_of(name).name] += 1

    def told(counts: Counter[str]) -> str:
        return f"{counts.total()} ({', '.join(f'{role} {count}' for role, count in counts.items())})"

    return f"FP8 ({recipe}): matrices converted {told(converted)}, skipped {told(skipped)}"


def project(linear: nn.Linear, x: Tensor, total: Tensor | None = None) -> Tensor:
    """x @ weight.T: in the linear's own precision when training, in bf16 when evaluating.

    To `total`, which only plain linears have, the weight's gradient is added in place of going to autograd.
    """
    if total is not None:
        return totals.linear(x, linear.weight, total)
    return linear(x) if linear.training else F.linear(x, linear.weight)
