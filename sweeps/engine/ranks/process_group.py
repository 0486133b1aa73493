"""The ranks' process group, started as under torchrun: by variables of the environment, then by torch.distributed.

Ray Train's own configuration of it imports torch in the controller too, which starts no rank's process before that.
"""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import ray
import ray.train
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig

TIMEOUT_S = 1800  # a hang inside a collective; the first one waits for the slowest rank's compilation
_LEAVE_TIMEOUT_S = 30


class Workers(Protocol):
    """The ranks' processes, as Ray Train's controller holds them."""

    def execute_single(self, worker_index: int, func: Callable[..., Any], *args: Any) -> Any:
        """The function's result in one process."""
        ...

    def execute_async(self, func: Callable[..., Any], *args: Any) -> "list[ray.ObjectRef[Any]]":
        """The function, begun in every process."""
        ...


@dataclass
class ProcessGroup(BackendConfig):
    """Travels to the controller. `backend` is torch's name: `gloo`, or `cpu:gloo,cuda:nccl`."""

    backend: str

    @property
    def backend_cls(self) -> type[Backend]:
        """Who starts and ends it."""
        return _Starter


class _Starter(Backend):
    share_cuda_visible_devices = True  # so that LOCAL_RANK is the index of a rank's GPU, as under torchrun

    def on_start(self, worker_group: Workers, backend_config: ProcessGroup) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        address, port = worker_group.execute_single(0, _free_address)
        ray.get(worker_group.execute_async(_join, address, port, backend_config.backend))

    def on_shutdown(self, worker_group: Workers, backend_config: ProcessGroup) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        with contextlib.suppress(GetTimeoutError):  # the processes are ended next in any case
            ray.get(worker_group.execute_async(_leave), timeout=_LEAVE_TIMEOUT_S)


def _free_address() -> tuple[str, int]:
    address = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return address, probe.getsockname()[1]


def _join(address: str, port: int, backend: str) -> None:
    import torch.distributed

    context = ray.train.get_context()
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
    }
    torch.distributed.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT_S))


def _leave() -> None:
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
