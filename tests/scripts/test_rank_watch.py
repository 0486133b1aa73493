"""Ranks and the store of their launcher, each its own process, any of which can be killed."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import HashStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from nanochat.checkpoints.format import TrainState
from nanochat.checkpoints.saving import Saver
from nanochat.loop.waiting import Answer
from nanochat.machine.ranks import Ranks
from nanochat.optimizer.groups import ParamSpec
from nanochat.optimizer.sharded import ShardedOptimizer
from nanochat.stats import Checkpoint, Hooks
from scripts import rank_watch
from scripts.rank_watch import RankWatch, verdict

ALONE = Ranks.from_environment(torch.device("cpu"))

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
            with RankWatch(store, 0, 2):
                process.kill()
                process.wait()
                dist.barrier()  # fails: there is no process group
        except ValueError as error:
            errors.append(error)

    rank = threading.Thread(target=train, daemon=True)
    rank.start()
    rank.join(timeout=60)
    assert not rank.is_alive()
    assert "process group has not been initialized" in str(errors[0])


RANK = """
import sys
from datetime import timedelta
from torch.distributed import TCPStore
from scripts.rank_watch import RankWatch

def connect():
    return TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False, wait_for_workers=False)

with RankWatch(connect(), int(sys.argv[2]), 2):
    others = connect()
    print("on", flush=True)
    others.wait(["what never comes"], timedelta(seconds=60))
"""


@pytest.mark.integration
def test_a_rank_that_is_killed_is_named_by_one_that_waits_without_an_error(launcher: tuple[Any, int], tmp_path: Path):
    program, port = tmp_path / "rank.py", str(launcher[1])
    program.write_text(RANK)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ranks = [
        subprocess.Popen([sys.executable, str(program), port, str(rank)], env=environment, **pipes) for rank in range(2)
    ]
    try:
        assert [rank.stdout.readline() for rank in ranks if rank.stdout] == ["on\n"] * 2
        ranks[1].kill()
        ranks[1].wait()
        _, said = ranks[0].communicate(timeout=120)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert re.fullmatch(
        rf"error: rank 1 \(\S+, process {ranks[1].pid}\) is gone: killed, or crashed outside of Python\. "
        r"The other ranks cannot continue; add --resume latest to resume from the newest checkpoint\n",
        said,
    )
    assert ranks[0].returncode == 1


def test_a_rank_that_is_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(RankWatch, "end", lambda self, found: said.append(found))
    monkeypatch.setattr(rank_watch, "HANG_S", 0.0)
    monkeypatch.setattr(rank_watch, "LOOK_EVERY_S", 0.01)
    with pytest.raises(RuntimeError), RankWatch(HashStore(), 0, 1):
        HashStore().wait(["what never comes"], timedelta(seconds=0.5))
    assert said == []


def test_a_rank_whose_own_writer_is_not_done_is_where_the_writer_is():
    weights, disk = nn.Parameter(torch.ones(3, 3)), threading.Event()
    spec = ParamSpec(name="weights", param=weights, kind="muon", lr=0.1)
    optimizer = ShardedOptimizer([spec], ALONE, compute_dtype=torch.float32)
    looks: list[tuple[bool, str]] = []

    def write_slowly(_: Checkpoint) -> None:
        disk.wait()

    def look(watch: RankWatch) -> None:
        time.sleep(0.5)
        doing = watch.doing()
        looks.append((doing.waits, doing.place.partition(" ")[0]))
        disk.set()

    hooks = Hooks(save=write_slowly)
    state = TrainState.of(optimizer, step=1, config_digest="", lanes={}, trainer={})
    with Saver(hooks, lambda: state, ALONE, beside_training=True) as saver:
        saver.save(last=False)
        other = threading.Thread(target=look, args=(RankWatch(None, 0, 1),))
        other.start()
        saver.settle()
        other.join()
    assert looks == [(False, "write_slowly")]


def test_the_verdict_says_why_the_ranks_were_asked_and_what_to_do_next():
    waits, packs = Answer(waits=True, place="wait (dist.py:9)"), Answer(waits=False, place="pack (dataloader.py:7)")
    cause, names = "The others have waited for 60 s", ("rank 0", "rank 1")
    assert verdict(names, {0: waits, 1: packs}, cause) == (
        f"rank 1 is in pack (dataloader.py:7), and the others wait for that. {cause}; "
        "add --resume latest to resume from the newest checkpoint"
    )
    assert verdict(names, {0: waits, 1: waits}, cause).startswith("every rank answered, so it cannot be told which")
