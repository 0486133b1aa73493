"""How long training waits for a checkpoint written at once and one written in the background, of one state.

    python -m bench.checkpoint [--rounds 5] [--folder FOLDER]
    torchrun --rdzv-backend=loopback --rdzv-endpoint=127.0.0.1 --nproc_per_node=8 -m bench.checkpoint

On a GPU the state is that of the recipe d12_moe_fp8, on a CPU that of a model whose tables make it larger than 1 GB.
Each round saves in both ways, the order in turn, with real steps before and next to them. Figures are medians over the
rounds with the lowest and highest, of rank 0; of the steps the slowest rank's. A save in the background is timed until
training continues, and until it is complete, which takes longer than the other way because steps take time from it.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

from nanochat.checkpoints import folders as checkpoint_folders
from nanochat.checkpoints.saving import Saver, is_over
from nanochat.config import TrainConfig, with_overrides
from nanochat.loop.setup import Run, prepare
from nanochat.loop.stepping import Stepper
from nanochat.recipes import d12_moe, d12_moe_fp8
from nanochat.stats import Checkpoint, Hooks

MIN_BYTES = 10**9
KEPT = 2
CALM_STEPS = 3


def config_for(on_gpu: bool) -> TrainConfig:
    """The full size on a GPU; on a CPU few tokens through many tables, whose update is most of a step."""
    if on_gpu:
        return with_overrides(d12_moe_fp8(num_steps=10_000), {"data.total_batch_tokens": 65_536})
    sizes = {
        "model.depth": 26,
        "model.aspect_ratio": 8,
        "model.head_dim": 16,
        "model.seq_len": 64,
        "moe.num_experts": 2,
        "compile.mode": "none",
        "data.device_batch_size": 2,
        "data.total_batch_tokens": 128,
    }
    return with_overrides(d12_moe(num_steps=10_000), sizes)


class Bench:
    """A run that saves and steps on request."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run, self._take_step = run, Stepper(run)
        self._hooks = Hooks(save=lambda checkpoint: self._save(folder, checkpoint))

    @staticmethod
    def _save(folder: Path, checkpoint: Checkpoint) -> None:
        checkpoint_folders.save(folder, checkpoint, KEPT)

    def saver(self, *, beside_training: bool) -> Saver:
        """One that waits for the disk, or one that does not."""
        return Saver(self._hooks, self._run.state, self._run.ranks, beside_training=beside_training)

    def step_ms(self) -> float:
        """A step on its slowest rank."""
        rank_step = self._take_step(self._run.progress.steps_done)
        self._run.progress.steps_done += 1
        return max(floats[0] for floats in self._run.ranks.all_gather_floats([rank_step.dt_ms]))

    def at_once_ms(self, saver: Saver) -> float:
        """Training waits until it is complete."""
        saver.take_blocked_ms()
        saver.save(last=False)
        return saver.take_blocked_ms()

    def beside_ms(self, saver: Saver) -> tuple[float, float, list[float]]:
        """How long training waits, until it is complete, and the steps meanwhile."""
        saver.take_blocked_ms()
        start_s = time.perf_counter()
        saver.save(last=False)
        steps = [self.step_ms()]
        while not is_over([row[0] for row in self._run.ranks.all_gather_floats([saver.status])]):
            steps.append(self.step_ms())
        saver.settle()
        return saver.take_blocked_ms(), (time.perf_counter() - start_s) * 1e3, steps


def spread(values: list[float]) -> str:
    """Median with the lowest and the highest, in ms."""
    return f"{statistics.median(values):9,.1f} ms [{min(values):,.1f}, {max(values):,.1f}]"


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="where the checkpoints go; a temporary folder")
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if "RANK" in os.environ:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="nanochat-sweep-checkpoint-") as own_folder:
        hooks = Hooks()
        run = prepare(config_for(on_gpu), hooks)
        measure(run, Path(run.ranks.broadcast_object(own_folder)), options.rounds)
        run.feed.close()
    if dist.is_initialized():
        dist.destroy_process_group()


def measure(run: Run, folder: Path, num_rounds: int) -> None:
    """All rounds on one state; rank 0 prints."""
    bench = Bench(run, folder)
    for _ in range(5):
        bench.step_ms()
    start_s = time.perf_counter()
    with bench.saver(beside_training=True) as beside, bench.saver(beside_training=False) as at_once:
        aside_s = time.perf_counter() - start_s
        calm: list[float] = []
        waited: list[float] = []
        blocked: list[float] = []
        until_complete: list[float] = []
        disturbed: list[float] = []
        for number in range(num_rounds):
            for way in ("at once", "beside") if number % 2 else ("beside", "at once"):
                calm += [bench.step_ms() for _ in range(CALM_STEPS)]
                if way == "at once":
                    waited.append(bench.at_once_ms(at_once))
                else:
                    figures = bench.beside_ms(beside)
                    blocked.append(figures[0])
                    until_complete.append(figures[1])
                    disturbed += figures[2]
    num_bytes = sum(f.stat().st_size for f in checkpoint_folders.newest_first(folder)[0].iterdir())
    if num_bytes < MIN_BYTES:
        raise SystemExit(f"the state has {num_bytes:,} bytes; this measure means something from {MIN_BYTES:,} on")
    if not run.ranks.is_first:
        return
    device, torch_version = run.device.name, torch.__version__
    print(f"{device} | torch {torch_version} | {run.ranks.world_size} ranks | {num_bytes / 1e9:.2f} GB on {folder}")
    print(f"written at once, training waits   {spread(waited)}")
    print(f"beside training, training waits   {spread(blocked)}  the first {blocked[0]:,.1f} ms")
    print(f"beside training, until complete   {spread(until_complete)}")
    print(f"ratio of the waits                {statistics.median(blocked) / statistics.median(waited):9.1%}")
    print(f"a step, calm                      {spread(calm)}  of {len(calm)}")
    print(f"a step beside a writer            {spread(disturbed)}  of {len(disturbed)}")
    print(f"memory set aside at the start in  {aside_s:9.2f} s")


if __name__ == "__main__":
    main()
