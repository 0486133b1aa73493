"""Parameters that share flat buffers: all matrices of one shape, or all that AdamW trains under one name.

A group holds the model's parameters and their gradients whole, and this rank's own part of values and state, which it
updates. `sharded` moves what is between ranks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nanochat.machine.ranks import Handle, Ranks
from nanochat.optimizer.buckets import Bucket, lay_out
from nanochat.optimizer.reduction import Parcel
from nanochat.optimizer.updates import UpdateKernels, neuron_dim

_ALIGN_ELEMENTS = 1024  # where a parameter starts in an AdamW buffer: kernels want aligned addresses
BUCKET_ELEMENTS = 2**24  # 32 MiB of bf16: enough to fill a link, and a small share of all gradients


@dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """One parameter and how it is trained. `param` holds its exact fp32 initial value at construction.

    Muon takes matrices (r, c) and stacks of them (E, r, c), each of which is updated by itself; its learning rate is
    multiplied by sqrt(max(1, r / c)). AdamW parameters of one `group` agree in everything but their shape.
    """

    name: str
    param: nn.Parameter
    kind: Literal["muon", "adamw"]
    lr: float
    group: str = ""
    betas: tuple[float, float] = (0.8, 0.95)
    dtype: torch.dtype | None = None  # of the weights the model computes with; None: the optimizer's compute_dtype
    master: bool = True  # False: the weights themselves are updated, rounded to their dtype after each step


@dataclass(frozen=True)
class Now:
    """What one step shares between groups: 0-d tensors on the device."""

    active: Tensor
    step: Tensor
    lr_mult: Tensor
    momentum: Tensor
    weight_decay: Tensor


class Group:
    """Parameters that share flat buffers, and this rank's own part of their state.

    Shapes: n items of the group's buffer, m of this rank's own; with one rank they are the same buffer.
    """

    def __init__(
        self,
        name: str,
        specs: list[ParamSpec],
        item_shape: tuple[int, ...],
        dtype: torch.dtype,
        grad_dtype: torch.dtype,
        ranks: Ranks,
    ):
        self.name, self.ranks, self.specs, self.item_shape = name, ranks, specs, item_shape
        item_size = math.prod(item_shape)
        self.layout = lay_out(
            [spec.param.numel() // item_size for spec in specs],
            world_size=ranks.world_size,
            bucket_size=-(-BUCKET_ELEMENTS // item_size),
            alignment=1 if item_shape else _ALIGN_ELEMENTS,
        )
        self.num_own = self.layout.num_own
        initial = torch.zeros(self.layout.num_items, *item_shape, device=ranks.device)
        for spec, start in zip(specs, self.layout.starts, strict=True):
            initial.view(-1)[start * item_size :][: spec.param.numel()].copy_(spec.param.detach().reshape(-1))
        self.params = initial.to(dtype, copy=True)  # (n, ...)
        self.grads = torch.zeros_like(self.params, dtype=grad_dtype)  # (n, ...)
        self._grad_views: list[Tensor] = []
        for spec, start in zip(specs, self.layout.starts, strict=True):
            where = slice(start * item_size, start * item_size + spec.param.numel())
            spec.param.data = self.params.view(-1)[where].view(spec.param.shape)
            self._grad_views.append(self.grads.view(-1)[where].view(spec.param.shape))
            spec.param.grad_dtype = grad_dtype
            spec.param.grad = self._grad_views[-1]

        has_master = specs[0].master and dtype != torch.float32
        is_alone = ranks.world_size == 1
        self.own_grad = self.grads if is_alone else self.own_part(self.grads)  # (m, ...)
        if has_master:
            self.value = self.own_part(initial)  # (m, ...)
            self.sent = self.params if is_alone else self.value.to(dtype)
        else:
            self.value = self.sent = self.params if is_alone else self.own_part(self.params)
        self.state: dict[str, Tensor] = {}

    def own_part(self, of: Tensor) -> Tensor:
        """A copy of this rank's own items (m, ...) of a group's buffer (n, ...)."""
        starts = [(b.start + self.ranks.rank * b.per_rank, b.per_rank) for b in self.layout.buckets]
        return torch.cat([of[start : start + size] for start, size in starts])

    def whole(self, bucket: Bucket, of: Tensor) -> Tensor:
        """The bucket's items of all ranks in a group's buffer, flat."""
        return of[bucket.start : bucket.start + bucket.per_rank * self.ranks.world_size].view(-1)

    def own(self, bucket: Bucket, of: Tensor) -> Tensor:
        """The bucket's items in this rank's own buffer, padding included, flat."""
        return of[bucket.own_start : bucket.own_start + bucket.per_rank].view(-1)

    def parcels(self) -> Iterator[tuple[str, Parcel]]:
        """What is to be reduced, each with the name of its parameter that comes first in the model."""
        for bucket in self.layout.buckets:
            members = [self.specs[i] for i in bucket.members]
            params = [spec.param for spec in members]
            yield members[0].name, Parcel(params, self.whole(bucket, self.grads), self.own(bucket, self.own_grad))

    def check_gradients(self) -> None:
        """Gradients replaced from outside would be silently ignored, so they are refused."""
        for spec, view in zip(self.specs, self._grad_views, strict=True):
            if spec.param.grad is not view:
                raise RuntimeError(
                    f"the gradient of {spec.name} is no longer the optimizer's buffer; "
                    f"clear gradients with ShardedOptimizer.zero_grad(), not with the model's zero_grad()"
                )

    def round_values(self) -> None:
        """Rounds the values into what is sent, as each update does."""
        if self.sent is not self.value:
            self.sent.copy_(self.value)

    def start_gather(self) -> list[Handle]:
        """Begins sending the updated, rounded values to the other ranks."""
        if self.ranks.world_size == 1:
            return []
        return [
            self.ranks.all_gather_into(self.whole(bucket, self.params), self.own(bucket, self.sent))
            for bucket in self.layout.buckets
        ]

    def sent_piece(self, piece: slice) -> Tensor | None:
        """Where an update rounds its values into; None if the values themselves are sent."""
        return None if self.sent is self.value else self.sent[piece]

    def tensors(self) -> dict[str, Tensor]:
        """This rank's part of everything that a checkpoint needs."""
        return {"value": self.value, **self.state}

    def _pieces(self, most_elements: int) -> Iterator[slice]:
        """Nearly equal slices of this rank's part."""
        num_pieces = max(1, -(-self.num_own * math.prod(self.item_shape) // most_elements))
        size = -(-self.num_own // num_pieces)
        if not self.item_shape:
            size = -(-size // _ALIGN_ELEMENTS) * _ALIGN_ELEMENTS
        return (slice(i, min(i + size, self.num_own)) for i in range(0, self.num_own, max(size, 1)))


class MuonGroup(Group):
    """All matrices of one shape; an item is a matrix."""

    def __init__(
        self,
        name: str,
        specs: list[ParamSpec],
        item_shape: tuple[int, ...],
        dtype: torch.dtype,
        grad_dtype: torch.dtype,
        ranks: Ranks,
    ):
        super().__init__(name, specs, item_shape, dtype, grad_dtype, ranks)
        rows, cols = item_shape
        lr = torch.zeros(self.layout.num_items, 1, 1, device=ranks.device)
        for spec, start in zip(specs, self.layout.starts, strict=True):
            lr[start : start + spec.param.numel() // (rows * cols)] = spec.lr * max(1.0, rows / cols) ** 0.5
        self.lr = self.own_part(lr)
        self.work_dtype = dtype
        like = {"dtype": torch.float32, "device": ranks.device}
        neurons = (rows, 1) if neuron_dim(rows, cols) == -1 else (1, cols)
        self.state = {
            "momentum": torch.zeros(self.num_own, rows, cols, **like),
            "second_moment": torch.zeros(self.num_own, *neurons, **like),
        }

    def extents(self, kernels: UpdateKernels) -> tuple[Tensor, Tensor]:
        """The largest gradient (n,) of each matrix and its sum of squares (n,)."""
        return kernels.extents(self.own_grad)

    def update(self, kernels: UpdateKernels, peaks: Tensor, now: Now) -> None:
        """Moves this rank's own matrices that have a gradient."""
        active = ((peaks > 0) * now.active).view(-1, 1, 1)
        for piece in self._pieces(kernels.chunk_elements):
            kernels.muon(
                self.value[piece],
                self.sent_piece(piece),
                self.own_grad[piece],
                self.state["momentum"][piece],
                self.state["second_moment"][piece],
                lr=self.lr[piece] * now.lr_mult,
                active=active[piece],
                momentum=now.momentum,
                weight_decay=now.weight_decay,
                work_dtype=self.work_dtype,
            )


class AdamWGroup(Group):
    """All parameters of one name; an item is a number."""

    def __init__(
        self,
        name: str,
        specs: list[ParamSpec],
        item_shape: tuple[int, ...],
        dtype: torch.dtype,
        grad_dtype: torch.dtype,
        ranks: Ranks,
    ):
        super().__init__(name, specs, item_shape, dtype, grad_dtype, ranks)
        self.lr = specs[0].lr
        self.betas = tuple(torch.tensor(beta, dtype=torch.float64, device=ranks.device) for beta in specs[0].betas)
        like = {"dtype": torch.float32, "device": ranks.device}
        self.state = {n: torch.zeros(self.num_own, **like) for n in ("exp_avg", "exp_avg_sq")}

    def extents(self, kernels: UpdateKernels) -> tuple[Tensor, Tensor]:
        """The largest gradient (1,) and the sum of squares (1,)."""
        return kernels.extents(self.own_grad.view(1, -1))

    def update(self, kernels: UpdateKernels, peaks: Tensor, now: Now) -> None:
        """Moves this rank's own numbers."""
        biases = tuple((1 - beta**now.step).float() for beta in self.betas)
        for piece in self._pieces(kernels.chunk_elements):
            kernels.adamw(
                self.value[piece],
                self.sent_piece(piece),
                self.own_grad[piece],
                self.state["exp_avg"][piece],
                self.state["exp_avg_sq"][piece],
                lr=self.lr * now.lr_mult,
                active=now.active,
                betas=self.betas,
                biases=biases,
            )


def make_groups(
    specs: list[ParamSpec], ranks: Ranks, compute_dtype: torch.dtype, grads_in_fp32: bool
) -> list[MuonGroup | AdamWGroup]:
    """One group per shape and per name; raises ValueError for specs that cannot share one, or share a parameter."""
    members: dict[str, list[ParamSpec]] = {}
    seen: dict[int, str] = {}
    for spec in specs:
        other = seen.setdefault(id(spec.param), spec.name)
        if other != spec.name:
            raise ValueError(f"{spec.name} and {other} are one parameter; each parameter has one update per step")
        members.setdefault(_group_name(spec), []).append(spec)
    groups: list[MuonGroup | AdamWGroup] = []
    for name, group_specs in members.items():
        first = group_specs[0]
        for spec in group_specs:
            if (spec.dtype, spec.master) != (first.dtype, first.master):
                raise ValueError(f"{spec.name} and {first.name} share the buffer {name} but not dtype and master")
            if spec.kind == "adamw" and (spec.lr, spec.betas) != (first.lr, first.betas):
                raise ValueError(
                    f"{spec.name} and {first.name} are both in group {name} but not with equal lr and betas"
                )
        dtype = first.dtype or compute_dtype
        grad_dtype = torch.float32 if grads_in_fp32 else dtype
        if first.kind == "muon":
            shape = tuple(first.param.shape[-2:])
            groups.append(MuonGroup(name, group_specs, shape, dtype, grad_dtype, ranks))
        else:
            groups.append(AdamWGroup(name, group_specs, (), dtype, grad_dtype, ranks))
    return groups


def _group_name(spec: ParamSpec) -> str:
    if spec.kind == "adamw":
        if not spec.group:
            raise ValueError(f"{spec.name} is trained by AdamW and needs the name of its group")
        return f"adamw.{spec.group}"
    if spec.param.ndim not in (2, 3):
        raise ValueError(
            f"{spec.name} is trained by Muon and must be (r, c) or (E, r, c), not {tuple(spec.param.shape)}"
        )
    rows, cols = spec.param.shape[-2:]
    return f"muon.{rows}x{cols}"
