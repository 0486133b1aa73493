"""Collectives give the same answers in a world of one and between processes."""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from nanochat.machine.ranks import Ranks

ALONE = Ranks.from_environment(torch.device("cpu"))


def every_collective(ranks: Ranks) -> dict[str, object]:
    answers: dict[str, object] = {}
    for dtype in (torch.float32, torch.bfloat16):
        shard, whole = torch.empty(2, dtype=dtype), torch.zeros(2 * ranks.world_size, dtype=dtype)
        ranks.reduce_scatter_mean(torch.arange(len(whole), dtype=dtype) + ranks.rank, shard).wait()
        place = whole[2 * ranks.rank : 2 * ranks.rank + 2]
        place.copy_(shard)
        ranks.all_gather_into(whole, place).wait()
        answers[str(dtype)] = (shard.tolist(), whole.tolist())
    least = torch.tensor([float(ranks.rank), 5.0])
    ranks.all_reduce_min(least).wait()
    ranks.barrier()
    answers["min"] = least.tolist()
    answers["floats"] = ranks.all_gather_floats([ranks.rank + 0.1, math.nan])
    answers["objects"] = ranks.all_gather_object({"rank": ranks.rank})
    answers["broadcast"] = ranks.broadcast_object(f"from {ranks.rank}")
    answers["any, all"] = (ranks.any(ranks.rank == 0), ranks.any(False), ranks.all(ranks.rank == 0), ranks.all(True))
    return answers


def test_a_world_of_one_answers_itself():
    answers = every_collective(ALONE)
    assert answers["torch.float32"] == ([0, 1], [0, 1])
    assert answers["min"] == [0, 5]
    assert str(answers["floats"]) == "[[0.1, nan]]"
    assert answers["objects"] == [{"rank": 0}]
    assert answers["broadcast"] == "from 0"
    assert answers["any, all"] == (True, False, True, True)


def test_three_processes_agree(run_world):
    for rank, answers in enumerate(run_world(every_collective, 3)):
        for dtype in ("torch.float32", "torch.bfloat16"):
            assert answers[dtype] == ([2 * rank + 1, 2 * rank + 2], [1, 2, 3, 4, 5, 6])
        assert answers["min"] == [0, 5]
        assert str(answers["floats"]) == "[[0.1, nan], [1.1, nan], [2.1, nan]]"
        assert answers["objects"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert answers["broadcast"] == "from 0"
        assert answers["any, all"] == (True, False, False, True)


def two_threads(ranks: Ranks) -> tuple[list[object], list[object]]:
    """Each thread gathers what it counts; in the second rank the other thread begins late."""
    other = ranks.beside()

    def gather(through: Ranks, base: int) -> list[object]:
        return [through.all_gather_object(base + number) for number in range(20)]

    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(lambda: (time.sleep(0.05 * ranks.rank), gather(other, 100))[1])
        return gather(ranks, 0), beside.result()


def test_a_thread_with_a_group_of_its_own_does_not_meet_the_other_threads_collectives(run_world):
    for mine, beside in run_world(two_threads, 2):
        assert mine == [[number, number] for number in range(20)]
        assert beside == [[100 + number, 100 + number] for number in range(20)]
