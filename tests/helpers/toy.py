"""A stand-in for the trainer with its signature: real rows, real checkpoints, no model. State is one running sum.

A test says which leg meets which fault: `toy_trainer(leg_name, {"failing": Fault.RAISES})`.
"""

import ctypes
import enum
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import ray.cloudpickle

from nanochat.config import TrainConfig
from nanochat.stats import CHECKPOINT_INDEX, Hooks, TrainResult
from tests.helpers.rows import start_facts, step_stats

STEP_S, SLOW_STEP_S = 0.05, 0.15
RAISES_AT, STRUCK_AT = 5, 15  # steps; a checkpoint every 10 lies between them


class Fault(enum.Enum):
    """What happens to a leg; a fault of the last rank strikes it alone, and the last two only in a fresh start."""

    CANNOT_START = enum.auto()  # raises on every rank before the first step
    RAISES = enum.auto()  # raises on the last rank
    NO_MEMORY = enum.auto()  # asks for more memory than there is, on every rank
    SLOW = enum.auto()  # none: steps of SLOW_STEP_S, so that a test can act between two of them
    KILLED = enum.auto()  # the last rank's process is killed
    HANGS = enum.auto()  # the last rank stays in C code that keeps the interpreter's lock


def toy_trainer(
    leg_name: Callable[[TrainConfig], str], faults: Mapping[str, Fault]
) -> Callable[[TrainConfig, Hooks], TrainResult]:
    """A trainer that meets the fault of the leg it is given; without one it steps every STEP_S."""
    for name in (__name__, start_facts.__module__, leg_name.__module__):  # workers need not find any of them
        ray.cloudpickle.register_pickle_by_value(sys.modules[name])  # pyright: ignore[reportPrivateImportUsage]
    by_leg = dict(faults)
    return lambda config, hooks: toy_train(config, hooks, by_leg.get(leg_name(config)))


class _State:
    def __init__(self, step: int, total: int, rank: int) -> None:
        self.step, self.total, self.rank = step, total, rank

    def together(self, action: Callable[[], object], *, first_only: bool = False) -> None:
        if self.rank == 0 or not first_only:
            action()

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank_{self.rank}.json").write_text(json.dumps({"step": self.step, "total": self.total}))
        if self.rank == 0:
            (folder / CHECKPOINT_INDEX).write_text("{}")


def toy_train(config: TrainConfig, hooks: Hooks, fault: Fault | None) -> TrainResult:
    """Trains as `nanochat.train.train` does, as far as its caller can see."""
    import torch
    import torch.distributed as dist

    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    first, total = 0, 0
    for folder in hooks.checkpoints():
        try:  # every rank looks at all files, so all take the same checkpoint; one that is not whole is none
            states = [json.loads((folder / f"rank_{number}.json").read_text()) for number in range(world)]
        except (OSError, ValueError):
            continue
        first, total = states[rank]["step"], states[rank]["total"]
        break
    if fault is Fault.CANNOT_START:
        raise ValueError("the toy cannot start")
    steps = config.schedule.num_steps or 0
    if rank == 0:
        hooks.on_start(start_facts(world_size=world, num_steps=steps, first_step=first))
    stopped = False
    step = first - 1
    for step in range(first, steps):
        total += step * config.run.seed
        time.sleep(SLOW_STEP_S if fault is Fault.SLOW else STEP_S)
        is_struck = step == STRUCK_AT and first == 0 and rank == world - 1
        if fault is Fault.RAISES and step == RAISES_AT and rank == world - 1:
            raise ValueError(f"the toy broke at step {step}")
        if fault is Fault.NO_MEMORY and step == RAISES_AT:
            torch.empty(2**52)
        if fault is Fault.KILLED and is_struck:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault is Fault.HANGS and is_struck:
            ctypes.PyDLL(None).sleep(1000)
        box = [hooks.should_stop() if rank == 0 else False]
        if world > 1:
            dist.broadcast_object_list(box, src=0)
        stopped = box[0]
        if rank == 0:
            print(f"step {step} total {total}", flush=True)
            hooks.on_step(step_stats(step, num_steps=steps, loss=float(total), loss_ema=float(total)))
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
