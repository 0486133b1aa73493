"""Worlds: real processes with gloo between them, for tests of what ranks do together; and a text that is small."""

import importlib.util
import inspect
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.helpers.ports import free_port

_WORKER = "__world_worker__"


@pytest.fixture(scope="session")
def run_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """`run_world(function, world_size, *args)` runs a test module's `function(ranks, *args)`; every rank's result."""
    context = multiprocessing.get_context("forkserver")
    preloaded = ["torch", "torch.distributed.checkpoint", "torch.distributed.tensor", "torchao.float8"]
    context.set_forkserver_preload(preloaded)

    def run(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
        folder = tmp_path_factory.mktemp("world")
        task = (inspect.getfile(function), function.__name__, args, world_size, free_port(), str(folder))
        workers = [
            context.Process(
                target=runpy.run_path,
                args=(__file__,),
                kwargs={"init_globals": {"RANK": rank, "TASK": task}, "run_name": _WORKER},
            )
            for rank in range(world_size)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        exit_codes = [worker.exitcode for worker in workers]
        assert exit_codes == [0] * world_size, f"ranks of {function.__name__} ended with {exit_codes}"
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world_size)]

    return run


@pytest.fixture(scope="session")
def small_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards of real paragraphs, with a tokenizer of one token per byte and a vocabulary of 300."""
    from nanochat.data import corpus as dataset
    from nanochat.data.shards import write_shard
    from nanochat.data.tokenizer import Tokenizer

    novel = (Path(dataset.__file__).parent / "austen" / "persuasion.txt").read_text(encoding="utf-8")
    paragraphs = [p for p in novel.split("\n\n") if 5 < len(p) < 200][:400]
    folder = tmp_path_factory.mktemp("small_text")
    write_shard(folder / "shard_00000.parquet", [paragraphs[i::12] for i in range(12)])
    write_shard(folder / "shard_00001.parquet", [paragraphs[i::6] for i in range(6)])
    Tokenizer({bytes([i]): i for i in range(256)}, vocab_size=300).write(folder / "tokenizer")
    return folder


def _work(rank: int, task: tuple[str, str, tuple[Any, ...], int, int, str]) -> None:
    from nanochat.machine.ranks import Ranks

    file, name, args, world_size, port, folder = task
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    spec = importlib.util.spec_from_file_location("world_test", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["world_test"] = module
    spec.loader.exec_module(module)
    result = getattr(module, name)(Ranks.from_environment(torch.device("cpu")), *args)
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == _WORKER:
    _work(globals()["RANK"], globals()["TASK"])
