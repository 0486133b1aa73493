"""Two GPUs of one host train as one does, and what they send while backward runs is what backward leaves.

Every rank is this file, run as a script: FUNCTION RANK WORLD_SIZE PORT RESULT.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from nanochat.config import TrainConfig
from nanochat.loop.setup import Run, prepare
from nanochat.loop.stepping import Stepper
from nanochat.metering.meter import RankStep
from nanochat.stats import Hooks
from tests.helpers.configs import card_config
from tests.helpers.gpu import keep_gpu_busy
from tests.helpers.ports import free_port

pytestmark = pytest.mark.gpu
_NUM_STEPS = 6


def _run(function: Callable[[Run], Any], world_size: int, folder: Path) -> list[Any]:
    """`function` of a fresh run, on each of as many GPUs; every rank's result."""
    if torch.cuda.device_count() < world_size:
        pytest.skip(f"needs {world_size} GPUs, torch sees {torch.cuda.device_count()}")
    port = free_port()
    results = [folder / f"{function.__name__}-{world_size}-{rank}.pt" for rank in range(world_size)]
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, function.__name__, str(rank), str(world_size), str(port), str(result)],
            env=os.environ | {"LOCAL_RANK": str(rank)},
        )
        for rank, result in enumerate(results)
    ]
    try:
        assert [rank.wait(timeout=300) for rank in ranks] == [0] * world_size
    finally:
        for rank in ranks:
            rank.kill()
    return [torch.load(result, weights_only=False) for result in results]


def _config() -> TrainConfig:
    """Four layers of width 256, tables of 17 MB, four micro-steps of 1,024 tokens over all ranks."""
    sizes = {"model.aspect_ratio": 64, "data.total_batch_tokens": 4096, "compile.mode": "static"}
    return card_config(**{"schedule.num_steps": 20}, **sizes)


def several_steps(run: Run) -> tuple[list[RankStep], list[float]]:
    """What each step measured, and a sum of every parameter afterwards."""
    take_step = Stepper(run)
    steps = [take_step(step) for step in range(_NUM_STEPS)]
    return steps, [param.double().sum().item() for param in run.model.parameters()]


def test_two_gpus_train_like_one(tmp_path: Path):
    ((alone, _),) = _run(several_steps, 1, tmp_path)
    (first, weights), (second, weights_of_second) = _run(several_steps, 2, tmp_path)
    assert weights == weights_of_second, "the ranks hold the same weights"
    of_both = [(a.loss + b.loss) / 2 for a, b in zip(first, second, strict=True)]
    assert of_both == pytest.approx([step.loss for step in alone], abs=0.03)
    assert of_both[0] == pytest.approx(alone[0].loss, abs=1e-4)


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_phases_of_a_replayed_step_explain_its_time(tmp_path: Path, world_size: int):
    for steps, _ in _run(several_steps, world_size, tmp_path):
        for step in steps[3:]:
            *measured, checkpoint_ms = step.phases_ms
            data_ms, forward_ms, backward_ms, optimizer_ms, communication_ms = measured
            assert min(data_ms, forward_ms, backward_ms, optimizer_ms) > 0
            assert (communication_ms > 0) == (world_size > 1)
            assert checkpoint_ms == 0
            assert 0.5 * step.dt_ms < sum(measured) < step.dt_ms


def reduced_while_backward_runs(run: Run) -> list[str]:
    """The parcels whose reduction from within a replayed backward differs from one after it."""
    return _reduced(run, by_the_last=True)


def reduced_after_backward(run: Run) -> list[str]:
    """The same of parcels that no micro-step has sent, as where a step ends without a last one."""
    return _reduced(run, by_the_last=False)


def _reduced(run: Run, *, by_the_last: bool) -> list[str]:
    take_step = Stepper(run)
    for step in range(3):
        take_step(step)
    assert take_step.recorded is not None
    assert take_step.recorded.is_recorded
    run.optimizer.zero_grad()
    for index in range(2):
        inputs, targets = run.feed.next()
        with run.optimizer.micro_step(is_last=by_the_last and index == 1):
            take_step.recorded(inputs, targets)
    for handle in run.optimizer.reduction.handles():
        handle.wait()
    torch.cuda.synchronize()
    wrong: list[str] = []
    for place, watched in enumerate(run.optimizer.reduction.queue):
        assert watched.is_final, "backward goes through every parameter"
        again = torch.empty_like(watched.parcel.target)
        run.ranks.reduce_scatter_mean(watched.parcel.source, again).wait()
        assert again.isfinite().all()
        if not torch.equal(again, watched.parcel.target):
            wrong.append(f"parcel {place} of {watched.parcel.source.numel()}")
    assert len(run.optimizer.reduction.queue) > 8
    return wrong


def test_what_is_sent_while_a_replayed_backward_runs_is_its_final_gradient(tmp_path: Path):
    assert _run(reduced_while_backward_runs, 2, tmp_path) == [[], []]


def test_what_is_sent_after_all_micro_steps_is_their_gradient(tmp_path: Path):
    assert _run(reduced_after_backward, 2, tmp_path) == [[], []]


def test_a_stream_can_wait_for_a_moment_inside_a_replayed_graph(gpu: torch.device):
    moment, is_reached, is_over = (torch.cuda.Event(enable_timing=True, external=True) for _ in range(3))
    count, seen = torch.zeros((), device=gpu), torch.zeros((), device=gpu)
    beside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        keep_gpu_busy(20_000_000)
        count.add_(1)
        moment.record()
        keep_gpu_busy(20_000_000)
    for replay in range(1, 4):
        graph.replay()
        beside.wait_event(moment)
        with torch.cuda.stream(beside):
            seen.copy_(count)
            is_reached.record()
        is_over.record()
        torch.cuda.synchronize()
        assert seen.item() == replay, "what lies before the moment is done"
        assert is_reached.elapsed_time(is_over) > 1, "what lies behind it was not waited for"


def _main(name: str, rank: str, world_size: str, port: str, result: str) -> None:
    if int(world_size) > 1:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("cpu:gloo,cuda:nccl", address, rank=int(rank), world_size=int(world_size))
    run = prepare(_config(), Hooks())
    torch.save(globals()[name](run), result)
    run.feed.close()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])
