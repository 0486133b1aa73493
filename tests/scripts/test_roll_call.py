"""Ranks and the store of their launcher, each a process of its own, any of which may be killed."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from scripts.roll_call import RollCall

STORE = """
import sys
from datetime import timedelta
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
print(store.port, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def launcher() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process that holds the store, and its port."""
    command = [sys.executable, "-c", STORE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def _connect(port: int) -> TCPStore:
    return TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=60))


def test_a_rank_ends_by_its_own_error_where_the_store_is_gone(launcher: tuple[subprocess.Popen[str], int]):
    process, port = launcher
    store = _connect(port)
    errors: list[Exception] = []

    def train() -> None:
        try:
            with RollCall(store, 0, 2):
                process.kill()
                process.wait()
                dist.barrier()  # fails: there is no process group
        except ValueError as error:
            errors.append(error)

    rank = threading.Thread(target=train, daemon=True)
    rank.start()
    rank.join(timeout=10)
    assert not rank.is_alive()
    assert "process group has not been initialized" in str(errors[0])
