"""Weak scaling: what a GPU's speed becomes when other GPUs of the host train with it, each on as many tokens as alone.

    python -m bench.scaling [--gpus 2] [--steps 30] [--variant fp8_static_cap1.0]

It starts the ranks by itself, the way torchrun does. The control is one GPU alone, without a process group; it runs
first and last, so that a drift of the machine is seen, and the efficiency is against the mean of both. What sending
gradients beside backward gains is seen against a run of all GPUs that sends them after it. Times are medians over the
counted steps, with the middle 80 % as spread; the phases are medians of the slowest rank's. The first run compiles, the
later ones find the graphs on disk. Without a GPU the size is tiny: a check of the plumbing, whose numbers say nothing.
"""

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn  # pyright: ignore[reportUnknownVariableType]

from bench.step import VARIANTS
from nanochat.config import with_overrides
from nanochat.loop.setup import prepare
from nanochat.loop.stepping import Stepper
from nanochat.metering.meter import RankStep, phase_columns
from nanochat.recipes import d12_moe_fp8, shrink_to_tiny
from nanochat.stats import PHASES, Hooks


@dataclass(frozen=True)
class Job:
    """One run: a world size, and what all runs have in common."""

    world_size: int
    is_overlapped: bool  # False: gradients are sent after backward
    variant: str
    tokens_per_rank: int  # per optimizer step
    num_steps: int
    num_warmup: int
    result: str  # a file
    port: int


def run_ranks(job: Job) -> dict[str, Any]:
    """Starts the job's ranks, each in its own process; the figures that rank 0 leaves."""
    spawn(_rank, args=(job,), nprocs=job.world_size)
    return json.loads(Path(job.result).read_text())


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _send_nothing_early(*, is_last: bool) -> AbstractContextManager[None]:
    return nullcontext()


def _rank(rank: int, job: Job) -> None:
    on_gpu = torch.cuda.is_available()
    os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(job.port))
    if job.world_size > 1:
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=job.world_size)
    base = d12_moe_fp8(280) if on_gpu else shrink_to_tiny(d12_moe_fp8(280))
    total = {"data.total_batch_tokens": job.tokens_per_rank * job.world_size}
    run = prepare(with_overrides(base, {**VARIANTS[job.variant], **total}), Hooks())
    if not job.is_overlapped:
        setattr(run.optimizer, "micro_step", _send_nothing_early)  # noqa: B010, the method of this one object
    take_step = Stepper(run)
    steps: list[list[RankStep]] = []
    for step in range(job.num_warmup + job.num_steps):
        everyone = run.ranks.all_gather_floats(take_step(step).as_floats())
        steps.append([RankStep.from_floats(floats) for floats in everyone])
    run.feed.close()
    if run.ranks.is_first:
        Path(job.result).write_text(json.dumps(_figures(job, steps)))
    if dist.is_initialized():
        dist.destroy_process_group()


def _figures(job: Job, steps: list[list[RankStep]]) -> dict[str, Any]:
    counted = steps[job.num_warmup :]
    dts = sorted(max(rank.dt_ms for rank in step) for step in counted)
    phases = [phase_columns(step) for step in counted]
    return {
        "gpus": job.world_size,
        "is_overlapped": job.is_overlapped,
        "tok_per_sec_per_gpu": job.tokens_per_rank / statistics.median(dts) * 1e3,
        "dt_ms": statistics.median(dts),
        "dt_p10_ms": dts[len(dts) // 10],
        "dt_p90_ms": dts[-1 - len(dts) // 10],
        **{f"{name}_ms": statistics.median(p[f"{name}_ms"] for p in phases) for name in PHASES},
        "peak_mib": max(rank.peak_mib for rank in counted[-1]),
        "loss": statistics.fmean(rank.loss for rank in counted[-1]),
        "first_step_s": max(rank.dt_ms for rank in steps[0]) / 1e3,
    }


def _line(f: dict[str, Any]) -> str:
    phases = "  ".join(f"{phase} {f[f'{phase}_ms']:.2f}" for phase in PHASES if phase != "checkpoint")
    name = f"{f['gpus']} x" if f["is_overlapped"] else f"{f['gpus']} after backward"
    return (
        f"{name:<17} {f['tok_per_sec_per_gpu']:>9,.0f} tok/s  "
        f"{f['dt_ms']:8.2f} ms [{f['dt_p10_ms']:.2f}, {f['dt_p90_ms']:.2f}]  of it {phases}  "
        f"peak {f['peak_mib']:,.0f} MiB  loss {f['loss']:.4f}  first step {f['first_step_s']:.1f} s"
    )


def main() -> None:
    """Prints a line per run and the efficiency, and one JSON line per run on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--variant", choices=list(VARIANTS), default="fp8_static_cap1.0")
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if on_gpu and torch.cuda.device_count() < args.gpus:
        sys.exit(f"--gpus {args.gpus}: this host has {torch.cuda.device_count()}; weak scaling needs all of them here")
    name = torch.cuda.get_device_name() if on_gpu else "CPU, tiny size: no time here says anything about a GPU"
    tokens = 65536 if on_gpu else 512
    print(f"{name} | torch {torch.__version__} | {args.variant} | {tokens:,} tokens per step and rank", flush=True)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for world_size, is_overlapped in ((1, True), (args.gpus, True), (args.gpus, False), (1, True)):
            file, port = f"{folder}/figures.json", _free_port()
            job = Job(world_size, is_overlapped, args.variant, tokens, args.steps, args.warmup, file, port)
            found.append(run_ranks(job))
            print(_line(found[-1]), flush=True)
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    first, together, after, last = (f["tok_per_sec_per_gpu"] for f in found)
    control = (first + last) / 2
    print(
        f"weak scaling 1 -> {args.gpus}: {100 * together / control:.1f} % of the speed alone "
        f"({100 * after / control:.1f} % with gradients sent after backward), "
        f"whose two runs differ by {100 * abs(first - last) / control:.1f} %"
    )


if __name__ == "__main__":
    main()
