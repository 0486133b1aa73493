"""FP8 by role: which matrices multiply in 8 bits, and how.

Linears (attention and head) are converted by torchao.float8, which quantises inside each product. Experts have their
own product here, because a grouped product over ragged rows needs one scale per row and because their weights are
quantised once per optimizer step, not in every micro-step. The head's gradients stay in bf16 (see FORWARD_ONLY).

Conversion is decided by role, never by a size that happens to divide. Evaluation always runs in bf16 with the same
weights: a layer in eval mode multiplies its weight directly (`project`, and moe.Experts).

torchao takes seconds to import, so only runs that convert a linear do.

Where there is no FP8 matrix unit (a CPU) values are quantised and dequantised, so that the rounding is the same and
only the speed is not.

Legend: R rows of all experts, E experts, K inner and M outer size of a product.
"""

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from torchao.float8 import Float8LinearConfig

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
E4M3_MAX = 448.0
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


def quantize(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """`x` as e4m3 and the fp32 factor that restores it, shared over `dims` (kept with size 1).

    Zeros stay zeros: the scale of an all-zero slice is tiny, not zero.
    """
    scale = x.abs().amax(dim=dims, keepdim=True).float().clamp(min=1e-12) / E4M3_MAX
    return (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), scale


class QuantizedWeight(nn.Module):
    """The two FP8 copies of an expert weight (E, M, K): as the forward product reads it, and transposed for dX.

    Hopper's FP8 product reads both operands along their inner dimension, hence the second copy. The tensors are
    allocated once and refreshed in place, so that a compiled block keeps its inputs.
    """

    def __init__(self, weight: Tensor, recipe: str) -> None:
        super().__init__()
        num_experts, m, k = weight.shape
        self._recipe = recipe
        self.q: Tensor
        self.q_scale: Tensor
        self.qt: Tensor
        self.qt_scale: Tensor
        new = weight.new_empty
        self.register_buffer("q", new(num_experts, m, k, dtype=E4M3), persistent=False)
        self.register_buffer("q_scale", new(num_experts, m, dtype=torch.float32), persistent=False)
        self.register_buffer("qt", new(num_experts, k, m, dtype=E4M3), persistent=False)
        self.register_buffer("qt_scale", new(num_experts, k, dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def refresh(self, weight: Tensor) -> None:
        """Quantises `weight` (E, M, K) anew; call it after every optimizer step."""
        transposed = weight.transpose(1, 2)
        over = (2,) if self._recipe == "rowwise" else (1, 2)
        for source, q, q_scale in ((weight, self.q, self.q_scale), (transposed, self.qt, self.qt_scale)):
            values, scale = quantize(source, over)
            q.copy_(values)
            q_scale.copy_(scale.squeeze(2).expand_as(q_scale))


# The kernels below want their operands row-major. As custom operators they get them so; the compiler is otherwise free
# to lay out an intermediate as it likes.
@torch.library.custom_op("nanochat::scaled_grouped_mm", mutates_args=(), tags=(torch.Tag.needs_exact_strides,))
def _scaled_grouped_mm(x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor, offsets: Tensor) -> Tensor:
    """e4m3 rows (R, K) times their expert's e4m3 weight (E, M, K); scales (R,) and (E, M) restore. (R, M) bf16."""
    return torch.ops.aten._scaled_grouped_mm(
        x,
        weight.transpose(1, 2),
        x_scale,
        weight_scale,
        offs=offsets,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,  # without it this kernel is three times slower
    )


@_scaled_grouped_mm.register_fake
def _(x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1], dtype=torch.bfloat16)


@torch.library.custom_op("nanochat::grouped_weight_grad", mutates_args=(), tags=(torch.Tag.needs_exact_strides,))
def _grouped_weight_grad(dy: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    """dy (R, M) and x (R, K), ragged over experts -> each expert's dy^T x (E, M, K), in bf16."""
    return F.grouped_mm(dy.t(), x, offs=offsets)


@_grouped_weight_grad.register_fake
def _(dy: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty(offsets.shape[0], dy.shape[1], x.shape[1])


def _grouped_product(x: Tensor, weight_q: Tensor, weight_scale: Tensor, offsets: Tensor | None, recipe: str) -> Tensor:
    """Rows of `x` times their expert's weight (E, M, K) in FP8 with fp32 accumulation: (R, M) in bf16.

    Without `offsets`, x holds equally many rows for each expert.
    """
    x_q, x_scale = quantize(x, (1,) if recipe == "rowwise" else (0, 1))
    if x.is_cuda:
        if offsets is None:
            rows = x.shape[0] // weight_q.shape[0]
            offsets = torch.arange(1, weight_q.shape[0] + 1, device=x.device, dtype=torch.int32) * rows
        row_scale = x_scale.squeeze(1).expand(x.shape[0]).contiguous()
        return _scaled_grouped_mm(x_q, weight_q, row_scale, weight_scale, offsets)
    x_hat = (x_q.float() * x_scale).to(x.dtype)
    weight_hat = (weight_q.float() * weight_scale[:, :, None]).to(x.dtype)
    return grouped_linear(x_hat, weight_hat, offsets)


def grouped_linear(x: Tensor, weight: Tensor, offsets: Tensor | None) -> Tensor:
    """Rows of `x` (R, K) times their expert's `weight` (E, M, K), transposed: (R, M).

    `offsets` (E,) int32 says where each expert's rows end; None: every expert has R / E rows.
    """
    if offsets is None:
        binned = x.view(weight.shape[0], -1, x.shape[1])  # (E, R/E, K)
        return torch.bmm(binned, weight.transpose(1, 2)).view(x.shape[0], weight.shape[1])
    return F.grouped_mm(x, weight.transpose(1, 2), offs=offsets)


class _Fp8GroupedLinear(torch.autograd.Function):
    """`grouped_linear` with forward and dX in FP8 and dW in bf16 (its FP8 would need transposed activations)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, q: Tensor, qs: Tensor, qt: Tensor, qts: Tensor, offsets: Any, recipe: str
    ) -> Tensor:
        ctx.save_for_backward(x, qt, qts, offsets)
        ctx.num_experts, ctx.recipe = weight.shape[0], recipe
        return _grouped_product(x, q, qs, offsets, recipe)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, qt, qts, offsets = ctx.saved_tensors
        dy = grads[0].contiguous()
        dx = _grouped_product(dy, qt, qts, offsets, ctx.recipe)
        if offsets is None:
            shape = (ctx.num_experts, -1)
            dw = torch.bmm(dy.view(*shape, dy.shape[1]).transpose(1, 2), x.view(*shape, x.shape[1]))
        else:
            dw = _grouped_weight_grad(dy, x, offsets)
        return dx, dw, None, None, None, None, None, None


def prepare_for_compiler() -> None:
    """To be called before a model is compiled. Imports the compiler."""
    torch.compiler.allow_in_graph(_Fp8GroupedLinear)  # dynamo cannot trace it over symbolic sizes; AOTAutograd can


def fp8_grouped_linear(
    x: Tensor, weight: Tensor, quantized: QuantizedWeight, offsets: Tensor | None, recipe: str
) -> Tensor:
    """`grouped_linear` in FP8; `quantized` holds the current copies of `weight`."""
    w = quantized
    out = _Fp8GroupedLinear.apply(x, weight, w.q, w.q_scale, w.qt, w.qt_scale, offsets, recipe)
    assert isinstance(out, Tensor)
    return out
