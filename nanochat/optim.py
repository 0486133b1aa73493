"""Optimizer whose work and state are sharded over the ranks (ZeRO-1), with parameters that live where they are sent.

Parameters are views into one flat buffer per group, and so are their gradients, which autograd accumulates in place: a
step is reduce-scatter of the gradient buffer, an update of this rank's part in fp32, and all-gather of the parameter
buffer, without a copy for stacking. The model computes in `dtype` (bf16); fp32 masters exist on their owner only.

A Muon group holds all matrices of one shape, an AdamW group all parameters given one group name. The first dimension
(matrices, or numbers) is cut like torch.chunk: ceil(n / W) per rank, the last ranks get less or nothing, so no size has
to divide by the number of ranks. State is named after the group and shown to torch.distributed.checkpoint as DTensors
sharded that way, so that any other number of ranks can load it.

Nothing here waits for the GPU: a step with a gradient that is not finite is undone by factors on the device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from nanochat.dist import Handle, Ranks
from nanochat.updates import Kernels, neuron_dim

_ALIGN_ELEMENTS = 1024  # where a parameter starts in an AdamW buffer: kernels want aligned addresses
_CHUNK_ELEMENTS = 2**25  # updates go through a shard in pieces of this size, to bound temporary memory


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
    """Parameters that share flat buffers, and this rank's part of their state."""

    def __init__(
        self, name: str, specs: list[ParamSpec], item_shape: tuple[int, ...], dtype: torch.dtype, ranks: Ranks
    ):
        self.name, self.ranks, self.specs, self.item_shape = name, ranks, specs, item_shape
        item_size = math.prod(item_shape)
        align = _ALIGN_ELEMENTS if not item_shape else 1
        starts, num_items = [], 0
        for spec in specs:
            starts.append(num_items)
            num_items += -(-(spec.param.numel() // item_size) // align) * align
        self.num_items = num_items
        self.items_per_rank = -(-num_items // ranks.world_size)
        self.first = min(ranks.rank * self.items_per_rank, num_items)
        self.num_own = min(self.items_per_rank, num_items - self.first)

        initial = torch.zeros(self.items_per_rank * ranks.world_size, *item_shape, device=ranks.device)
        for spec, start in zip(specs, starts, strict=True):
            initial.view(-1)[start * item_size :][: spec.param.numel()].copy_(spec.param.detach().reshape(-1))
        self.params = initial.to(dtype, copy=True)
        self.grads = torch.zeros_like(self.params)
        self._grad_views: list[Tensor] = []
        for spec, start in zip(specs, starts, strict=True):
            where = slice(start * item_size, start * item_size + spec.param.numel())
            spec.param.data = self.params.view(-1)[where].view(spec.param.shape)
            self._grad_views.append(self.grads.view(-1)[where].view(spec.param.shape))
            spec.param.grad = self._grad_views[-1]

        rank = ranks.rank
        self.sent = self.params[rank * self.items_per_rank :][: self.items_per_rank]  # what the others get from here
        own = slice(self.first, self.first + self.num_own)
        has_master = specs[0].master and dtype != torch.float32
        self.value = initial[own].clone() if has_master else self.params[own]
        self.state: dict[str, Tensor] = {}
        self.own_grad = self.grads[own]

    def check_gradients(self) -> None:
        """Gradients replaced from outside would be silently ignored, so they are refused."""
        for spec, view in zip(self.specs, self._grad_views, strict=True):
            if spec.param.grad is not view:
                raise RuntimeError(
                    f"the gradient of {spec.name} is no longer the optimizer's buffer; "
                    f"clear gradients with ShardedOptimizer.zero_grad(), not with the model's zero_grad()"
                )

    def start_reduce(self) -> Handle | None:
        """Begins the mean of the gradients over ranks; `own_grad` holds this rank's part once waited for."""
        if self.ranks.world_size == 1:
            return None
        received = torch.empty_like(self.sent)
        self.own_grad = received[: self.num_own]
        return self.ranks.reduce_scatter_mean(self.grads.view(-1), received.view(-1))

    def start_gather(self) -> Handle:
        """Rounds the updated values into the parameters and begins sending them to the other ranks."""
        if self.value.dtype != self.params.dtype:
            self.sent[: self.num_own].copy_(self.value)
        return self.ranks.all_gather_into(self.params.view(-1), self.sent.view(-1))

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
        self, name: str, specs: list[ParamSpec], item_shape: tuple[int, ...], dtype: torch.dtype, ranks: Ranks
    ):
        super().__init__(name, specs, item_shape, dtype, ranks)
        rows, cols = item_shape
        per_item = [s.lr * max(1.0, rows / cols) ** 0.5 for s in specs for _ in range(s.param.numel() // (rows * cols))]
        own_lr = per_item[self.first : self.first + self.num_own]
        self.lr = torch.tensor(own_lr, device=ranks.device).view(-1, 1, 1)
        self.work_dtype = dtype
        like = {"dtype": torch.float32, "device": ranks.device}
        neurons = (rows, 1) if neuron_dim(rows, cols) == -1 else (1, cols)
        self.state = {
            "momentum": torch.zeros(self.num_own, rows, cols, **like),
            "second_moment": torch.zeros(self.num_own, *neurons, **like),
        }

    def peaks(self) -> Tensor:
        """The largest gradient of each matrix."""
        return torch.linalg.vector_norm(self.own_grad, ord=math.inf, dim=(-2, -1)).float()

    def update(self, kernels: Kernels, peaks: Tensor, now: "_Now") -> None:
        active = ((peaks > 0) * now.active).view(-1, 1, 1)
        for piece in self._pieces():
            kernels.muon(
                self.value[piece],
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
        self, name: str, specs: list[ParamSpec], item_shape: tuple[int, ...], dtype: torch.dtype, ranks: Ranks
    ):
        super().__init__(name, specs, item_shape, dtype, ranks)
        self.lr = specs[0].lr
        self.betas = tuple(torch.tensor(beta, dtype=torch.float64, device=ranks.device) for beta in specs[0].betas)
        like = {"dtype": torch.float32, "device": ranks.device}
        self.state = {n: torch.zeros(self.num_own, **like) for n in ("exp_avg", "exp_avg_sq")}

    def peaks(self) -> Tensor:
        """The largest gradient, one number; zero for a rank that owns nothing."""
        if self.num_own == 0:
            return torch.zeros(1, device=self.own_grad.device)
        return torch.linalg.vector_norm(self.own_grad, ord=math.inf).float().view(1)

    def update(self, kernels: Kernels, peaks: Tensor, now: "_Now") -> None:
        biases = tuple((1 - beta**now.step).float() for beta in self.betas)
        for piece in self._pieces():
            kernels.adamw(
                self.value[piece],
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


class ShardedOptimizer:
    """Owns the parameters' storage from construction on; see the file's docstring."""

    def __init__(
        self, specs: list[ParamSpec], ranks: Ranks, *, compute_dtype: torch.dtype, compile_updates: bool = False
    ) -> None:
        """Moves every parameter into its group's buffer. All ranks must have initialised equally.

        `compile_updates` fuses the elementwise work; it pays on a GPU only.
        """
        self.ranks = ranks
        self._num_steps_done = torch.zeros((), dtype=torch.float64, device=ranks.device)
        # Muon last: the embeddings' long way over the wire runs beside its matrix products.
        self._groups = sorted(_make_groups(specs, ranks, compute_dtype), key=lambda g: isinstance(g, _MuonGroup))
        self._mesh: DeviceMesh | None = None
        self._kernels = Kernels.compiled() if compile_updates else Kernels()

    @torch.no_grad()
    def zero_grad(self) -> None:
        """Clears all gradients in place; the views that autograd adds into stay."""
        for group in self._groups:
            group.grads.zero_()

    @torch.no_grad()
    def step(self, *, lr_mult: float, momentum: float, weight_decay: float) -> Tensor:
        """Updates all parameters on all ranks from the mean gradient over ranks.

        Returns 1.0 on the device, or 0.0 if a gradient was not finite on any rank: then nothing has changed.
        """
        for group in self._groups:
            group.check_gradients()
        for handle in [group.start_reduce() for group in self._groups]:
            if handle is not None:
                handle.wait()
        peaks = [group.peaks() for group in self._groups]
        finite = torch.isfinite(torch.cat(peaks)).all().float().view(1)
        self.ranks.all_reduce_min(finite).wait()
        now = self._now(finite.view(()), lr_mult, momentum, weight_decay)
        sending: list[Handle] = []
        for group, peak in zip(self._groups, peaks, strict=True):
            group.update(self._kernels, peak, now)
            sending.append(group.start_gather())
        for handle in sending:
            handle.wait()
        return now.active

    def state_dict(self) -> dict[str, Tensor]:
        """Values and moments by stable names, without copies: loading into these tensors loads the optimizer.

        Call `load_state_dict` with the same dict afterwards, to rebuild the parameters from the values.
        """
        found: dict[str, Tensor] = {"num_steps_done": self._num_steps_done}
        for group in self._groups:
            for kind, tensor in group.tensors().items():
                found[f"{group.name}.{kind}"] = self._as_global(tensor, group.num_items)
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
        for handle in [group.start_gather() for group in self._groups]:
            handle.wait()

    def _now(self, active: Tensor, lr_mult: float, momentum: float, weight_decay: float) -> _Now:
        def on_device(number: float) -> Tensor:
            return torch.full((), number, dtype=torch.float32, device=self.ranks.device)

        self._num_steps_done += active
        step = self._num_steps_done.clamp_min(1)  # a first step that is skipped must not divide by zero
        return _Now(active, step, on_device(lr_mult), on_device(momentum), on_device(weight_decay))

    def _as_global(self, shard: Tensor, num_items: int) -> Tensor:
        if self.ranks.world_size == 1:
            return shard
        if self._mesh is None:
            self._mesh = init_device_mesh(self.ranks.device.type, (self.ranks.world_size,))
        shape = torch.Size((num_items, *shard.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(shard, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _make_groups(specs: list[ParamSpec], ranks: Ranks, compute_dtype: torch.dtype) -> list[_MuonGroup | _AdamWGroup]:
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
        if first.kind == "muon":
            shape = tuple(first.param.shape[-2:])
            groups.append(_MuonGroup(name, group_specs, shape, dtype, ranks))
        else:
            groups.append(_AdamWGroup(name, group_specs, (), dtype, ranks))
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
