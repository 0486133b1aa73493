"""Ports of this machine that nothing listens at."""

import socket


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
