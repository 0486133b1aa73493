"""Optimizer whose work and state are sharded over the ranks (ZeRO-1), with parameters that live where they are sent.

Parameters are views into one flat buffer per group, and so are their gradients, which autograd accumulates in place. A
step is the mean of the gradients, reduced bucket by bucket while backward runs; an update of this rank's own part, at
once over all its buckets, in fp32; and an all-gather of the parameters, group by group beside the next group's update.
Nothing is copied for stacking. The model computes in `dtype` (bf16); fp32 masters exist on their owner only.

A Muon group holds all matrices of one shape, an AdamW group all parameters given one group name; `buckets` says how
either is cut. State is named after group and bucket and shown to torch.distributed.checkpoint as DTensors sharded over
the bucket, so that any other number of ranks can load it.

Nothing here waits for the GPU: a step with a gradient that is not finite is undone by factors on the device.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from nanochat.machine.ranks import Handle, Ranks
from nanochat.optimizer.buckets import Bucket, lay_out
from nanochat.optimizer.reduction import Parcel, Reduction
from nanochat.optimizer.updates import UpdateKernels, neuron_dim

_ALIGN_ELEMENTS = 1024  # where a parameter starts in an AdamW buffer: kernels want aligned addresses
BUCKET_ELEMENTS = 2**24  # 32 MiB of bf16: enough to fill a link, and a small share of all gradients
_CHUNK_ELEMENTS = 2**25  # updates go through a rank's part in pieces of this size, to bound temporary memory


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


class _Group:
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

    def _pieces(self) -> Iterator[slice]:
        """Nearly equal slices of this rank's part."""
        num_pieces = max(1, -(-self.num_own * math.prod(self.item_shape) // _CHUNK_ELEMENTS))
        size = -(-self.num_own // num_pieces)
        if not self.item_shape:
            size = -(-size // _ALIGN_ELEMENTS) * _ALIGN_ELEMENTS
        return (slice(i, min(i + size, self.num_own)) for i in range(0, self.num_own, max(size, 1)))


class _MuonGroup(_Group):
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

    def update(self, kernels: UpdateKernels, peaks: Tensor, now: "_Now") -> None:
        active = ((peaks > 0) * now.active).view(-1, 1, 1)
        for piece in self._pieces():
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


class _AdamWGroup(_Group):
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

    def update(self, kernels: UpdateKernels, peaks: Tensor, now: "_Now") -> None:
        biases = tuple((1 - beta**now.step).float() for beta in self.betas)
        for piece in self._pieces():
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


@dataclass(frozen=True)
class _Now:
    """What one step shares between groups: 0-d tensors on the device."""

    active: Tensor
    step: Tensor
    lr_mult: Tensor
    momentum: Tensor
    weight_decay: Tensor


class _Rates(NamedTuple):
    """What the schedule says, as 0-d tensors that stay where they are."""

    lr_mult: Tensor
    momentum: Tensor
    weight_decay: Tensor


Mark = Callable[[Literal["optimizer", "communication"]], None]


def unmarked(_phase: str) -> None:
    """Times nothing."""


class ShardedOptimizer:
    """Owns the parameters' storage from construction on; see the file's docstring."""

    def __init__(
        self,
        specs: list[ParamSpec],
        ranks: Ranks,
        *,
        compute_dtype: torch.dtype,
        compile_updates: bool = False,
        grads_in_fp32: bool = False,
        by_half: bool = False,
        own_updates: bool = False,
    ) -> None:
        """Moves every parameter into its group's buffer. `specs` are in the model's order.

        All ranks must have initialised equally. `compile_updates` fuses the elementwise work; it pays on a GPU only.
        `grads_in_fp32` adds micro-steps up in fp32 whatever the model computes in (`accumulation`).
        `by_half` is explained in `updates.orthogonal_factor`. `own_updates`: with kernels that need no compiler.
        """
        self.ranks = ranks
        self._num_steps_done = torch.zeros((), dtype=torch.float64, device=ranks.device)
        self._rates = _Rates(*(torch.zeros((), device=ranks.device) for _ in range(3)))
        self._groups = sorted(_make_groups(specs, ranks, compute_dtype, grads_in_fp32), key=_update_order)
        self.own_grad_square = torch.zeros((), device=ranks.device)  # this rank's part, in the last step
        self._mesh: DeviceMesh | None = None
        self._plain_kernels = UpdateKernels.own(by_half=by_half) if own_updates else UpdateKernels(by_half=by_half)
        is_compiled = compile_updates and not own_updates
        self._kernels = UpdateKernels.compiled(by_half=by_half) if is_compiled else self._plain_kernels
        place = {spec.name: i for i, spec in enumerate(specs)}
        parcels = [named for group in self._groups for named in group.parcels()]
        self.reduction = Reduction(ranks, [p for _, p in sorted(parcels, key=lambda named: -place[named[0]])])

    def uncompile_updates(self) -> None:
        """From now on the update rules run as they are written."""
        self._kernels = self._plain_kernels

    @torch.no_grad()
    def zero_grad(self) -> None:
        """Clears all gradients in place; the views that autograd adds into stay."""
        for group in self._groups:
            group.grads.zero_()

    def micro_step(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Around each micro-step. In the backward of the step's last one gradients are sent as they become final."""
        return self.reduction.micro_step(is_last=is_last)

    @torch.no_grad()
    def step(self, *, lr_mult: float, momentum: float, weight_decay: float, mark: Mark = unmarked) -> Tensor:
        """Updates all parameters on all ranks from the mean gradient over ranks.

        `mark` gets what has just ended at once, so that waiting for other ranks can be told from work.
        Returns 1.0 on the device, or 0.0 if a gradient was not finite on any rank: then nothing has changed.
        """
        self.set_rates(lr_mult=lr_mult, momentum=momentum, weight_decay=weight_decay)
        return self.update(mark)

    def set_rates(self, *, lr_mult: float, momentum: float, weight_decay: float) -> None:
        """What the next `update` takes."""
        for group in self._groups:
            group.check_gradients()
        self._rates.lr_mult.fill_(lr_mult)
        self._rates.momentum.fill_(momentum)
        self._rates.weight_decay.fill_(weight_decay)

    @torch.no_grad()
    def update(self, mark: Mark = unmarked) -> Tensor:
        """`step` with the rates that were set last. In a world of one it can be recorded as a CUDA graph."""
        self._wait(self.reduction.handles(), mark)
        peaks, squares = zip(*(group.extents(self._kernels) for group in self._groups), strict=True)
        self.own_grad_square = torch.cat(squares).sum()
        finite = torch.isfinite(torch.cat(peaks)).all().float().view(1)
        self._wait([self.ranks.all_reduce_min(finite)], mark)
        now = self._now(finite.view(()))
        sending: list[Handle] = []
        for group, peak in zip(self._groups, peaks, strict=True):
            group.update(self._kernels, peak, now)
            sending += group.start_gather()
        self._wait(sending, mark)
        return now.active

    @torch.no_grad()
    def rehearse(self) -> None:
        """Runs every update with nothing active, which changes nothing: compiles them. Not collective."""
        self.set_rates(lr_mult=0.0, momentum=0.0, weight_decay=0.0)
        now = self._now(torch.zeros((), device=self.ranks.device))
        for group in self._groups:
            group.update(self._kernels, group.extents(self._kernels)[0], now)

    def state_dict(self) -> dict[str, Tensor]:
        """Values and moments by stable names, without copies: loading into these tensors loads the optimizer.

        Call `load_state_dict` with the same dict afterwards, to rebuild the parameters from the values.
        """
        found: dict[str, Tensor] = {"num_steps_done": self._num_steps_done}
        for group in self._groups:
            for kind, tensor in group.tensors().items():
                for i, bucket in enumerate(group.layout.buckets):
                    found[f"{group.name}.{i}.{kind}"] = self._as_global(tensor, bucket)
        return found

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over values and moments, and rebuilds every rank's parameters from the values."""
        mine = self.state_dict()
        if mine.keys() != state.keys():
            different = ", ".join(sorted(mine.keys() ^ state.keys()))
            raise ValueError(f"the optimizer state is of another model: only one side has {different}")
        for name, tensor in mine.items():
            target, source = _local(tensor), _local(state[name])
            if target.shape != source.shape:
                raise ValueError(f"optimizer state {name} has shape {tuple(source.shape)}, not {tuple(target.shape)}")
            if target.data_ptr() != source.data_ptr():
                target.copy_(source)
        for group in self._groups:
            group.round_values()
        for handle in [handle for group in self._groups for handle in group.start_gather()]:
            handle.wait()

    def _wait(self, handles: list[Handle], mark: Mark) -> None:
        if self.ranks.world_size == 1:
            return
        mark("optimizer")
        for handle in handles:
            handle.wait()
        mark("communication")

    def _now(self, active: Tensor) -> _Now:
        self._num_steps_done += active
        step = self._num_steps_done.clamp_min(1)  # a first step that is skipped must not divide by zero
        return _Now(active, step, *self._rates)

    def _as_global(self, own: Tensor, bucket: Bucket) -> Tensor:
        """The bucket's items, whose part here is in `own` (m, ...), without padding."""
        shard = own[bucket.own_start : bucket.own_start + bucket.num_real(self.ranks.rank)]
        if self.ranks.world_size == 1:
            return shard
        if self._mesh is None:
            self._mesh = init_device_mesh(self.ranks.device.type, (self.ranks.world_size,))
        shape = torch.Size((bucket.num_items, *shard.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(shard, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def _update_order(group: "_Group") -> tuple[bool, int]:
    """Muon last, so that the tables' long way runs beside its matrix products; and what is sent last is small."""
    return isinstance(group, _MuonGroup), -group.params.numel()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _make_groups(
    specs: list[ParamSpec], ranks: Ranks, compute_dtype: torch.dtype, grads_in_fp32: bool
) -> list[_MuonGroup | _AdamWGroup]:
    members: dict[str, list[ParamSpec]] = {}
    seen: dict[int, str] = {}
    for spec in specs:
        other = seen.setdefault(id(spec.param), spec.name)
        if other != spec.name:
            raise ValueError(f"{spec.name} and {other} are one parameter; each parameter has one update per step")
        members.setdefault(_group_name(spec), []).append(spec)
    groups: list[_MuonGroup | _AdamWGroup] = []
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
            groups.append(_MuonGroup(name, group_specs, shape, dtype, grad_dtype, ranks))
        else:
            groups.append(_AdamWGroup(name, group_specs, (), dtype, grad_dtype, ranks))
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
