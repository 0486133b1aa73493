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

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from nanochat.machine.ranks import Handle, Ranks
from nanochat.optimizer.buckets import Bucket
from nanochat.optimizer.groups import Group, MuonGroup, Now, ParamSpec, make_groups
from nanochat.optimizer.reduction import Reduction
from nanochat.optimizer.updates import UpdateKernels


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
        self._groups = sorted(make_groups(specs, ranks, compute_dtype, grads_in_fp32), key=_update_order)
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

    def _now(self, active: Tensor) -> Now:
        self._num_steps_done += active
        step = self._num_steps_done.clamp_min(1)  # a first step that is skipped must not divide by zero
        return Now(active, step, *self._rates)

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


def _update_order(group: Group) -> tuple[bool, int]:
    """Muon last, so that the tables' long way runs beside its matrix products; and what is sent last is small."""
    return isinstance(group, MuonGroup), -group.params.numel()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
