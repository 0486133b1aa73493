"""Ports of this machine: such that nothing listens at, and where processes listen."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

# As the kernel writes 127.0.0.1, the same as an IPv6 address, and ::1.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
_LISTEN = "0A"


def free_ports(number: int) -> list[int]:
    """Different ports, each free when this returns; somebody else may still take one before it is used."""
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]


def listening(pids: Iterable[int]) -> set[str]:
    """The addresses, as the kernel writes them, on which these processes listen."""
    sockets = {os.readlink(link) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    lines = [line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()[1:]]
    return {words[1].partition(":")[0] for words in lines if words[3] == _LISTEN and f"socket:[{words[9]}]" in sockets}
