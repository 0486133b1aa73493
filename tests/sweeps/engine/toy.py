"""A stand-in for the trainer with its signature: real rows, real checkpoints, no model. State is one running sum."""

import ctypes
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from nanochat.config import TrainConfig
from nanochat.stats import CHECKPOINT_INDEX, Hooks, StartFacts, StepStats, TrainResult


class _State:
    last_file = CHECKPOINT_INDEX

    def __init__(self, step: int, total: int, rank: int) -> None:
        self.step, self.total, self.rank = step, total, rank

    def together(self, action: Callable[[], object], *, first_only: bool = False) -> None:
        if self.rank == 0 or not first_only:
            action()

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank_{self.rank}.json").write_text(json.dumps({"step": self.step, "total": self.total}))
        if self.rank == 0:
            (folder / self.last_file).write_text("{}")


def toy_train(config: TrainConfig, hooks: Hooks) -> TrainResult:
    """Steps of 50 ms; `run.log_every` 19 makes them 150 ms, 13 raises at step 5, 17 kills
    rank 1 at step 15 of a fresh start, 23 hangs it there in C code that keeps the interpreter's lock, 29 asks for more
    memory than there is, 31 raises before the first step."""
    import torch
    import torch.distributed as dist

    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    first, total = 0, 0
    for folder in hooks.checkpoints():
        values = json.loads((folder / f"rank_{rank}.json").read_text())
        first, total = values["step"], values["total"]
        break
    if config.run.log_every == 31:
        raise ValueError("the toy cannot start")
    steps = config.schedule.num_steps or 0
    if rank == 0:
        hooks.on_start(_facts(world, steps, first))
    stopped = False
    step = first - 1
    for step in range(first, steps):
        total += step * config.run.seed
        time.sleep(0.15 if config.run.log_every == 19 else 0.05)
        if config.run.log_every == 13 and step == 5 and rank == world - 1:
            raise ValueError("the toy broke at step 5")
        if config.run.log_every == 17 and step == 15 and first == 0 and rank == world - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if config.run.log_every == 23 and step == 15 and first == 0 and rank == world - 1:
            ctypes.PyDLL(None).sleep(1000)
        if config.run.log_every == 29 and step == 5:
            torch.empty(2**52)
        box = [hooks.should_stop() if rank == 0 else False]
        if world > 1:
            dist.broadcast_object_list(box, src=0)
        stopped = box[0]
        if rank == 0:
            print(f"step {step} total {total}", flush=True)
            hooks.on_step(_row(step, steps, float(total)))
        every = config.run.checkpoint_every
        if (stopped or (every and (step + 1) % every == 0)) and step + 1 < steps:
            hooks.before_save(step + 1)
            hooks.save(_State(step + 1, total, rank))
            hooks.saved(step + 1)
        if stopped:
            break
    return TrainResult(
        last_step=step, completed=step + 1 >= steps, peak_mib=1.0, total_time_min=0.1, min_val_bpb=None, num_skipped=0
    )


def _facts(world: int, steps: int, first: int) -> StartFacts:
    return StartFacts(
        world_size=world,
        device="cpu",
        device_name="toy",
        peak_bf16_flops=None,
        num_steps=steps,
        first_step=first,
        total_batch_tokens=512,
        grad_accum_steps=1,
        flops_per_token=1.0,
        num_params=1,
        num_active_params=1,
        backends={"attention": "toy"},
        compile_cache="none",
    )


def _row(step: int, steps: int, loss: float) -> StepStats:
    return StepStats(
        step=step,
        num_steps=steps,
        loss=loss,
        loss_ema=loss,
        bal=None,
        lr_mult=1.0,
        dt_ms=50.0,
        dt_median_ms=50.0,
        slowest_rank=0,
        tok_per_sec=1000.0,
        bf16_mfu_pct=None,
        useful_mfu_pct=None,
        epoch=1,
        train_time_s=0.05 * max(0, step - 10),
        dropped_pct=None,
        max_vio=None,
        dead_experts=None,
        lost_tokens_pct=None,
        peak_mib=1.0,
        val_bpb=None,
        flags=(),
    )
