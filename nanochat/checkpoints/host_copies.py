"""Copies of tensors in host memory that is set aside once and used for every copy.

The pages are touched, and for a GPU pinned, when the room is made: a copy then moves at the speed of the memory or the
bus, and no save waits for the kernel to find pages. Shards stay shards: what was a DTensor comes back as one.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor


class HostCopies:
    """Room for one copy of certain tensors."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Collective if there are DTensors on a GPU. Takes as much host memory as this rank's part of the tensors.

        For a GPU up to twice that: torch rounds each pinned allocation up to a power of two.
        """
        self._rooms = {name: _room_for(_local(tensor)) for name, tensor in tensors.items()}
        meshes = [tensor.device_mesh for tensor in tensors.values() if isinstance(tensor, DTensor)]
        self._mesh = _on_host(meshes[0]) if meshes else None

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same names with the values of now. They hold until the next call, whatever happens to the originals."""
        for name, tensor in tensors.items():
            self._rooms[name].copy_(_local(tensor), non_blocking=True)
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        return {name: self._like(tensor, self._rooms[name]) for name, tensor in tensors.items()}

    def _like(self, original: Tensor, copy: Tensor) -> Tensor:
        if not isinstance(original, DTensor):
            return copy
        shape, stride = original.shape, original.stride()
        return DTensor.from_local(copy, self._mesh, original.placements, run_check=False, shape=shape, stride=stride)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _room_for(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda).zero_()


def _on_host(mesh: DeviceMesh) -> DeviceMesh:
    return mesh if mesh.device_type == "cpu" else init_device_mesh("cpu", (mesh.size(),))
