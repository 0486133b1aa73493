"""How each parameter of the model is treated: one table that all who treat them read.

A role says how a parameter starts, which optimizer trains it at which rate, and whether its product can be in FP8. A
parameter has the role whose path its name ends with. A parameter without a role is an error: no rule would be right for
a matrix that the table does not know.

Muon trains the matrices of the layers, and under Muon alone weights decay. AdamW trains the rest: tables, head,
scalars, and the router, whose rows are too few and too important for Muon's equalised updates (a router driven hard is
worse than a frozen random one).

Plain data: no torch.
"""

import functools
from dataclasses import dataclass, replace
from typing import Literal

from nanochat.config import LinearsPrecision, PrecisionConfig

Fp8Part = Literal["head", "qkv", "out", "mlp", "experts"]


class UnknownParameterError(LookupError):
    """A parameter that no role describes."""


@dataclass(frozen=True)
class Normal:
    """Starts normally distributed around 0."""

    std: float


@dataclass(frozen=True)
class Uniform:
    """Starts uniformly distributed within sqrt(3 / width) around 0: the standard deviation is width^-0.5."""


@dataclass(frozen=True)
class Constant:
    """Starts at one value everywhere."""

    value: float


@dataclass(frozen=True, kw_only=True)
class Update:
    """How a parameter is trained."""

    optimizer: Literal["muon", "adamw"]
    rate: Literal["embedding_lr", "unembedding_lr", "matrix_lr", "scalar_lr"]  # the field of OptimConfig
    damping: float = 1.0  # factor on that rate
    follows_width: bool = False  # the rate falls with the model's width
    betas: tuple[float, float] | None = None  # AdamW's; None: the config's
    in_fp32: bool = False  # the model computes with it in fp32, whatever it computes in otherwise
    keeps_master: bool = True  # False: the weights themselves are updated, rounded to what the model computes with


@dataclass(frozen=True)
class ParameterRole:
    """One kind of parameter."""

    path: str
    initial: Normal | Uniform | Constant
    update: Update
    fp8: Fp8Part | None = None  # the part of the model whose precision it has; None: never in FP8
    fp8_backward: bool = True  # False: only the forward product is in FP8

    @property
    def name(self) -> str:
        """The last word of the path: what the log and the optimizer's groups call it."""
        return self.path.rpartition(".")[2]


_MATRIX = Update(optimizer="muon", rate="matrix_lr")
_EMBEDDING = Update(optimizer="adamw", rate="embedding_lr", follows_width=True, keeps_master=False)
_HEAD = Update(optimizer="adamw", rate="unembedding_lr", follows_width=True)
# At the head's rate a router collapses onto few experts before the balance loss can answer.
_ROUTER = replace(_HEAD, damping=0.1, in_fp32=True)
_SCALAR = Update(optimizer="adamw", rate="scalar_lr", in_fp32=True)
_RESIDUAL_SCALE = replace(_SCALAR, damping=0.01)  # it multiplies the whole stream
_EMBEDDING_SCALE = replace(_SCALAR, betas=(0.96, 0.95))
_ZERO = Constant(0.0)

ROLES: tuple[ParameterRole, ...] = (
    ParameterRole("wte", Normal(1.0), _EMBEDDING),
    ParameterRole("residual_scale", Constant(1.0), _RESIDUAL_SCALE),
    ParameterRole("embedding_scale", Constant(0.1), _EMBEDDING_SCALE),
    ParameterRole("attention.q", Uniform(), _MATRIX, fp8="qkv"),
    ParameterRole("attention.k", Uniform(), _MATRIX, fp8="qkv"),
    ParameterRole("attention.v", Uniform(), _MATRIX, fp8="qkv"),
    ParameterRole("attention.out", _ZERO, _MATRIX, fp8="out"),
    ParameterRole("attention.value_embed", Uniform(), _EMBEDDING),
    ParameterRole("attention.value_gate", _ZERO, _MATRIX),
    ParameterRole("mlp.up", Uniform(), _MATRIX, fp8="mlp"),
    ParameterRole("mlp.down", _ZERO, _MATRIX, fp8="mlp"),
    ParameterRole(
        "mlp.router", Normal(0.02), _ROUTER
    ),  # not 0: with equal scores every token would choose the same experts
    ParameterRole("experts.w1", Uniform(), _MATRIX, fp8="experts"),
    ParameterRole("experts.w2", _ZERO, _MATRIX, fp8="experts"),
    # The head's output gradient is rounded before everything else reads it, and Muon, which makes all directions of a
    # matrix' gradient equally long, lifts that noise to a full step. So its backward products stay in bf16.
    ParameterRole("head.lm_head", Normal(0.001), _HEAD, fp8="head", fp8_backward=False),
)

_BY_PATH = {role.path: role for role in ROLES}
_LONGEST_PATH = max(len(path.split(".")) for path in _BY_PATH)
_FP8_LINEARS: dict[LinearsPrecision, tuple[Fp8Part, ...]] = {
    "bf16": (),
    "fp8": ("head", "qkv", "out", "mlp"),
    "fp8_head": ("head",),
    "fp8_attention": ("qkv", "out"),
    "fp8_qkv": ("qkv",),
    "fp8_out": ("out",),
}


@functools.cache
def role_of(name: str) -> ParameterRole:
    """The role of a parameter, or of a module by its weight's role, by the full name in the model.

    Raises UnknownParameterError, which names it.
    """
    words = name.removesuffix(".weight").split(".")
    for length in range(_LONGEST_PATH, 0, -1):
        role = _BY_PATH.get(".".join(words[-length:]))
        if role is not None:
            return role
    raise UnknownParameterError(
        f"the parameter {name} has no role; add one to nanochat/model/roles.py, with its first value and its update"
    )


def multiplies_in_fp8(role: ParameterRole, precision: PrecisionConfig) -> bool:
    """True if the config asks for FP8 in this role's product."""
    if role.fp8 == "experts":
        return precision.experts == "fp8"
    return role.fp8 is not None and role.fp8 in _FP8_LINEARS[precision.linears]
