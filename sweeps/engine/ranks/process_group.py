"""The ranks' process group, started as under torchrun: by variables of the environment, then by torch.distributed.

Ray Train's own configuration of it imports torch in the controller too, which starts no rank's process before that, and
its store listens on all interfaces. Here ranks of one node meet on 127.0.0.1, those of several on rank 0's address.
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

from nanochat.machine.stores import LOOPBACK, listening_socket, stay_on_this_machine, store_at

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
        is_one_node = len(set(ray.get(worker_group.execute_async(_node_id)))) == 1
        address, port = worker_group.execute_single(0, _listen, is_one_node)
        ray.get(worker_group.execute_async(_join, address, port, backend_config.backend, is_one_node))

    def on_shutdown(self, worker_group: Workers, backend_config: ProcessGroup) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        with contextlib.suppress(GetTimeoutError):  # the processes are killed next in any case
            ray.get(worker_group.execute_async(_leave), timeout=_LEAVE_TIMEOUT_S)


_listener: socket.socket | None = None  # of rank 0, from `_listen` to `_join`


def _node_id() -> str:
    return ray.get_runtime_context().get_node_id()


def _listen(is_one_node: bool) -> tuple[str, int]:
    """In rank 0: opens the store's port, to the other nodes only if there are any."""
    global _listener
    address = LOOPBACK if is_one_node else ray.util.get_node_ip_address()
    _listener = listening_socket(address)
    return address, _listener.getsockname()[1]


def _join(address: str, port: int, backend: str, is_one_node: bool) -> None:
    global _listener
    import torch.distributed
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    context, timeout = ray.train.get_context(), timedelta(seconds=TIMEOUT_S)
    if is_one_node:
        stay_on_this_machine()
    if _listener is not None:
        store, _listener = store_at(_listener, timeout), None
    else:
        store = TCPStore(address, port, timeout=timeout, wait_for_workers=False)
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
    }
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def _leave() -> None:
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
