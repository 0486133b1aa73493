"""The key-value store through which ranks find each other, on one interface of this machine.

torch's own store listens on all interfaces, and asks no client who it is. Where all ranks are on one machine, the
loopback interface is enough for it, and for the sockets that gloo and NCCL open between the ranks.
"""

import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

LOOPBACK = "127.0.0.1"
_INTERFACE = "lo"
_VARIABLES = {"GLOO_SOCKET_IFNAME": _INTERFACE, "NCCL_SOCKET_IFNAME": f"={_INTERFACE}"}  # "=": that name alone


def listening_socket(address: str) -> socket.socket:
    """A socket that listens on this address alone, at a port of the kernel's choice. Imports no torch."""
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.bind((address, 0))
    listener.listen(1024)
    return listener


def store_at(listener: socket.socket, timeout: timedelta) -> "TCPStore":
    """The server of a new store, to which the socket then belongs."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    address, port = listener.getsockname()[:2]
    descriptor = listener.detach()
    return TCPStore(address, port, is_master=True, timeout=timeout, wait_for_workers=False, master_listen_fd=descriptor)


def stay_on_this_machine() -> None:
    """Has gloo and NCCL use the loopback interface, unless the user chose one. Call it before they start."""
    if any(name == _INTERFACE for _, name in socket.if_nameindex()):
        for variable, interface in _VARIABLES.items():
            os.environ.setdefault(variable, interface)
