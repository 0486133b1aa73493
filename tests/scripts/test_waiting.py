"""Who holds the others up is read from stacks and told in one sentence."""

import os
import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.utils import _DistWrapper

from scripts.waiting import Answer, in_collective, place_of, verdict, waits, waits_for_writer

NAMES = ("rank 0 (a, process 10)", "rank 1 (b, process 11)", "rank 2 (b, process 12)")
WAITS, PACKS = Answer(waits=True, place="wait (dist.py:9)"), Answer(waits=False, place="pack (dataloader.py:7)")
CAUSE = "The others have waited for 60 s"


def _frame(file: str, line: str = "x = 1", name: str = "f") -> traceback.FrameSummary:
    return traceback.FrameSummary(file, 5, name, line=line)


@pytest.mark.parametrize(
    "innermost",
    [
        _frame("/home/me/project/nanochat/dist.py", "_all_gather(everyone, mine)"),
        _frame("/x/site-packages/torch/distributed/distributed_c10d.py", "work = group.barrier(opts=opts)"),
        _frame("/home/me/project/nanochat/optim.py", "gathered.wait()"),
    ],
    ids=lambda frame: frame.filename,
)
def test_collectives_are_waited_for_wherever_they_are_called(innermost: traceback.FrameSummary):
    stack = [_frame("/x/train.py"), innermost]
    assert waits(stack)
    assert in_collective(stack)


def test_a_wait_for_the_gpu_is_a_wait_for_the_others_but_no_collective():
    stack = [_frame("/x/train.py"), _frame("/x/nanochat/clock.py", "numbers = packed.tolist()")]
    assert waits(stack)
    assert not in_collective(stack)


def test_work_is_no_wait():
    assert not waits([_frame("/x/nanochat/dist.py"), *[_frame("/x/nanochat/dataloader.py")] * 4])
    assert not waits([_frame("/x/nanochat/gpt.py", "x = self.attention(norm(x), ids, cos, sin)")])
    assert not waits([])


def test_the_place_of_a_real_stack_is_its_innermost_function():
    with pytest.raises(TimeoutError) as error:
        Future[int]().result(timeout=0.01)
    assert place_of(traceback.extract_tb(error.tb)).startswith("result (_base.py:")
    assert place_of([]) == "no code of Python"


# Real stacks


class _Stacks(list[traceback.StackSummary]):
    """Those that lead into a function, which is put in its place by `watch`."""

    def watch(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*args: Any, **settings: Any) -> Any:
            self.append(traceback.StackSummary.from_list(traceback.extract_stack()[:-1]))
            return real(*args, **settings)

        patch.setattr(owner, name, watched)


def test_storage_of_a_checkpoint_is_work_however_slow_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stacks = _Stacks()
    stacks.watch(monkeypatch, os, "fsync")
    save({"x": torch.ones(2)}, storage_writer=FileSystemWriter(tmp_path), no_dist=True)
    num_written = len(stacks)
    stacks.watch(monkeypatch, torch, "load")
    load({"x": torch.zeros(2)}, storage_reader=FileSystemReader(tmp_path), no_dist=True)
    assert 0 < num_written < len(stacks)
    assert all("/torch/distributed/checkpoint/" in stack[-1].filename for stack in stacks)
    assert not any(map(waits, stacks))


def test_a_collective_of_a_checkpoint_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    stacks = _Stacks()
    stacks.watch(monkeypatch, dist.distributed_c10d, "all_gather")
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        together = _DistWrapper(group=None, use_dist=True, coordinator_rank=0)
        assert together.all_reduce("add", lambda: 1, sum) == 1
    finally:
        dist.destroy_process_group()
    assert stacks
    assert any("/torch/distributed/checkpoint/" in frame.filename for frame in stacks[0])
    assert all(map(in_collective, stacks))


def test_a_thread_pool_of_this_rank_is_no_wait_for_others():
    taken = list[traceback.StackSummary]()
    main = threading.get_ident()

    def look() -> None:
        time.sleep(0.3)
        taken.append(traceback.extract_stack(sys._current_frames()[main]))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(look).result()
    assert any(".wait(" in (frame.line or "") for frame in taken[0][-2:])
    assert not waits(taken[0])
    assert not waits_for_writer(taken[0])


def test_a_rank_that_does_not_answer_is_named():
    assert verdict(NAMES, {0: WAITS, 2: WAITS}, CAUSE, answer_s=10) == (
        "rank 1 (b, process 11) did not answer within 10 s: killed, stopped, or stuck in code that is not Python. "
        "The others have waited for 60 s; add --resume latest to go on at the newest checkpoint"
    )
    both = verdict(NAMES, {0: WAITS}, CAUSE, answer_s=10)
    assert both.startswith("rank 1 (b, process 11) and rank 2 (b, process 12) did not answer within 10 s")


def test_a_rank_that_answers_but_does_not_wait_is_named_with_its_place():
    told = verdict(NAMES, {0: WAITS, 1: WAITS, 2: PACKS}, CAUSE, answer_s=10)
    assert told.startswith("rank 2 (b, process 12) is in pack (dataloader.py:7), and the others wait for that. The ")


def test_silence_says_more_than_work():
    assert "rank 2" not in verdict(NAMES, {0: WAITS, 2: PACKS}, CAUSE, answer_s=10)


@pytest.mark.parametrize("answer", [WAITS, PACKS])
def test_no_rank_is_named_where_all_are_alike(answer: Answer):
    told = verdict(NAMES, dict.fromkeys(range(3), answer), CAUSE, answer_s=10)
    assert told.startswith("every rank answered, so it cannot be told which of them holds the others up")
