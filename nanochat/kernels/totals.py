"""Weight gradients that are added to where micro-steps are added up, by the product itself or row by row.

Autograd would have them written, read again and added. What takes such a total instead gives autograd no gradient;
hooks that run once a gradient has been accumulated still run, behind what has added it.

Legend: N rows, K inner and M outer size of a product, V entries of a table, D width.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.kernels.hopper import jitted

_CHUNK, _COLUMNS = 32, 128  # tokens and columns that a program of a table's gradient works on
_IN_PLACE: dict[str, Any] = {"mutates_args": ("total",), "tags": (torch.Tag.needs_exact_strides,)}


def together(*params: Tensor) -> Tensor | None:
    """Where the gradients of `params` are added up, one below the other, in a tensor of its own on that memory.

    None if they do not lie so, or are not in the weights' dtype.
    """
    grads = [param.grad for param in params]
    first, sizes = grads[0], [0]
    if first is None:
        return None
    for param, grad in zip(params, grads, strict=True):
        is_next = grad is not None and grad.data_ptr() == first.data_ptr() + sum(sizes) * first.element_size()
        if grad is None or not is_next or not grad.is_contiguous() or grad.dtype != param.dtype:
            return None
        sizes.append(grad.numel())
    shape = (sum(param.shape[0] for param in params), *params[0].shape[1:])
    # Views count changes with their base; each total has to count its own, or autograd would refuse what it saved.
    return first.data.as_strided(shape, first.stride()).data


@torch.library.custom_op("nanochat::add_weight_grad", **_IN_PLACE)
def add_weight_grad(total: Tensor, dy: Tensor, x: Tensor) -> None:
    """Adds dy^T x to `total` (M, K); dy (N, M), x (N, K)."""
    total.addmm_(dy.t(), x)


@add_weight_grad.register_fake
def _(total: Tensor, dy: Tensor, x: Tensor) -> None:
    return None


def weight_grad(total: Tensor | None, dy: Tensor, x: Tensor) -> Tensor | None:
    """dy^T x (M, K) for autograd, or None if there is a total, to which it has been added."""
    if total is None:
        return dy.t() @ x
    add_weight_grad(total, dy, x)
    return None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, total: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, total)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, total = ctx.saved_tensors
        dy = grads[0].contiguous()
        add_weight_grad(total, dy, x)
        return dy @ weight, None, None


def linear(x: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """x (..., K) times weight (M, K), transposed: (..., M). The weight's gradient goes to `total` alone."""
    out = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, total)
    assert isinstance(out, Tensor)
    return out.view(*x.shape[:-1], out.shape[-1])


class SortedIds(NamedTuple):
    """The ids of a micro-batch of N tokens in rising order, and where each of them is in the batch: (N,) each."""

    ids: Tensor
    token: Tensor

    @staticmethod
    def of(ids: Tensor) -> "SortedIds":
        """ids of any shape."""
        return SortedIds(*torch.sort(ids.reshape(-1).to(torch.int32), stable=True))


@torch.library.custom_op("nanochat::add_table_grad", **_IN_PLACE)
def add_table_grad(total: Tensor, grad: Tensor, ids: Tensor, token: Tensor) -> None:
    """Adds each token's row of `grad` (N, D) to its id's row of `total` (V, D); ids and token as in SortedIds.

    Sums are in fp32, in the tokens' order, and rounded once: a step repeats bit for bit, however often an id occurs.
    """
    num_tokens, width = grad.shape
    if num_tokens == 0:
        return
    grid = (jitted().cdiv(num_tokens, _CHUNK), jitted().cdiv(width, _COLUMNS))
    # What a chunk of tokens has of the id that began before it, and of the one that continues behind it.
    ends = grad.new_empty(grid[0], 2, width, dtype=torch.float32)
    sizes = {"CHUNK": _CHUNK, "COLUMNS": _COLUMNS}
    precision = "tf32" if grad.dtype == torch.bfloat16 else "ieee"  # tf32 holds every number in bf16
    jitted().add_runs_kernel[grid](total, grad, ids, token, ends, num_tokens, width, **sizes, PRECISION=precision)
    jitted().add_long_runs_kernel[grid](total, ids, ends, num_tokens, width, **sizes)


@add_table_grad.register_fake
def _(total: Tensor, grad: Tensor, ids: Tensor, token: Tensor) -> None:
    return None


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, total: Tensor, ids: Tensor, sorted_ids: Tensor, token: Tensor) -> Tensor:
        ctx.save_for_backward(total, sorted_ids, token)
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        total, sorted_ids, token = ctx.saved_tensors
        add_table_grad(total, grads[0].reshape(-1, grads[0].shape[-1]).contiguous(), sorted_ids, token)
        return (None,) * 5


def look_up(table: Tensor, ids: Tensor, total: Tensor, sorted_ids: SortedIds) -> Tensor:
    """The rows (..., D) of table (V, D) that ids (...) name. The table's gradient goes to `total` alone."""
    out = _Lookup.apply(table, total, ids, *sorted_ids)
    assert isinstance(out, Tensor)
    return out


def prepare_for_compiler() -> None:
    """To be called before a model is compiled: dynamo cannot trace these over symbolic sizes, AOTAutograd can."""
    for function in (_Linear, _Lookup):
        torch.compiler.allow_in_graph(function)
