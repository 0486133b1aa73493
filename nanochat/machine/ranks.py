"""The few collectives the trainer needs, over gloo, over NCCL and with no process group at all.

The caller of the trainer (torchrun's shell, Ray Train) starts the process group; here it is only read. A single process
is a world of one whose collectives do nothing, so no other file asks whether training is distributed.

Tensor collectives return a handle and run next to the caller until `wait()`; on a GPU waiting only orders the streams.
Control data (floats, flags, objects) travels over the CPU where the group has a backend for it, so that it never waits
for the GPU's queue.
"""

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

# The names of torch 2.13; before it only the older ones exist.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Handle(Protocol):
    """A collective under way: its output can be read after `wait()`."""

    def wait(self) -> Any:
        """Returns when the output can be read."""


class _Done:
    """The handle of a collective that had nothing to do."""

    def wait(self) -> None:
        return None


class _Mean:
    """Turns a sum into a mean when waited for: gloo sums only."""

    def __init__(self, work: Handle, total: Tensor, count: int) -> None:
        self._work, self._total, self._count = work, total, count

    def wait(self) -> None:
        self._work.wait()
        self._total.div_(self._count)


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. Every method is collective: all ranks call it, in the same order."""

    rank: int
    world_size: int
    device: torch.device
    group: dist.ProcessGroup | None = None  # None: the default one

    @staticmethod
    def from_environment(device: torch.device) -> "Ranks":
        """The default process group as seen from here, or a world of one if there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return Ranks(0, 1, device)
        return Ranks(dist.get_rank(), dist.get_world_size(), device)

    def beside(self) -> "Ranks":
        """Collective. The same ranks with their own group on the CPU, for one other thread of each process.

        Two threads must not share a group: their collectives would meet each other's.
        """
        if self.world_size == 1:
            return Ranks(self.rank, 1, torch.device("cpu"))
        group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))  # this rank is in it
        return Ranks(self.rank, self.world_size, torch.device("cpu"), group)

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that logs and decides."""
        return self.rank == 0

    def reduce_scatter_mean(self, flat_in: Tensor, shard_out: Tensor) -> Handle:
        """`shard_out` (n) becomes this rank's part of the mean over ranks of `flat_in` (W * n)."""
        if self.world_size == 1:
            shard_out.copy_(flat_in)
            return _Done()
        if self._is_gloo():
            work = _reduce_scatter(shard_out, flat_in, op=dist.ReduceOp.SUM, group=self.group, async_op=True)
            return _Mean(_started(work), shard_out, self.world_size)
        return _started(_reduce_scatter(shard_out, flat_in, op=dist.ReduceOp.AVG, group=self.group, async_op=True))

    def all_gather_into(self, flat_out: Tensor, shard_in: Tensor) -> Handle:
        """`flat_out` (W * n) becomes all ranks' `shard_in` (n), in rank order; the shard can be a view of its place."""
        if self.world_size == 1:
            if flat_out.data_ptr() != shard_in.data_ptr():
                flat_out.copy_(shard_in)
            return _Done()
        return _started(_all_gather(flat_out, shard_in, group=self.group, async_op=True))

    def all_reduce_min(self, values: Tensor) -> Handle:
        """`values` becomes the elementwise minimum over ranks, in place."""
        if self.world_size == 1:
            return _Done()
        return _started(dist.all_reduce(values, op=dist.ReduceOp.MIN, group=self.group, async_op=True))

    def all_reduce_sum(self, values: Tensor) -> Handle:
        """`values` becomes the elementwise sum over ranks, in place."""
        if self.world_size == 1:
            return _Done()
        return _started(dist.all_reduce(values, op=dist.ReduceOp.SUM, group=self.group, async_op=True))

    def all_gather_floats(self, values: list[float]) -> list[list[float]]:
        """Every rank's list, in rank order, as exact doubles. All lists have the same length."""
        if self.world_size == 1:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.float64, device=self._control_device())
        everyone = mine.new_empty(self.world_size * len(values))
        _all_gather(everyone, mine, group=self.group)
        return everyone.view(self.world_size, len(values)).tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank."""
        return max(row[0] for row in self.all_gather_floats([float(flag)])) > 0

    def all(self, flag: bool) -> bool:
        """Whether the flag is set on every rank."""
        return not self.any(not flag)

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.world_size == 1:
            return value
        box = [value if self.is_first else None]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order."""
        if self.world_size == 1:
            return [value]
        box: list[Any] = [None] * self.world_size
        dist.all_gather_object(box, value, group=self.group)
        return box

    def barrier(self) -> None:
        """Returns once every rank has come here."""
        self.all_gather_floats([0.0])

    def _is_gloo(self) -> bool:
        return f"{self.device.type}:gloo" in dist.get_backend_config(self.group)

    def _control_device(self) -> torch.device:
        has_cpu_backend = "cpu:" in dist.get_backend_config(self.group)
        return torch.device("cpu") if has_cpu_backend else self.device


def _started(work: Any) -> Handle:
    """The handle of a collective that torch types as optional; it is None for ranks outside the group only."""
    return work if work is not None else _Done()
