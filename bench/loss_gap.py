"""What FP8 costs in loss and gains in speed, role by role, against bf16 under equal seeds.

    python -m bench.loss_gap --out gap.jsonl [--roles all head qkv out experts] [--seeds 5] [--num-steps 160]
                             [--stop-after-s 500]

Each seed trains the recipe d12_moe once in bf16 and once per role in FP8: same initial weights, same batches, 16,384
tokens a step, real text, at most four epochs of it (164 steps of the embedded corpus). A gap is the validation bits per
byte of such a pair, FP8 over bf16; its mean and upper bound (one-sided 95 % by Student's t over the pairs) have to stay
below the bounds that the table names.

Runs of one seed follow each other, so that a drift of the machine meets both sides of a pair. Every finished run is one
line of --out and is not run again, on the same card, torch and config: the benchmark can be stopped at any time,
and continues where it was. With --stop-after-s no run begins that would not end in time. Compiled code of all
variants stays in the process. Without a GPU the size is tiny, which shows that the benchmark works and nothing else.
"""

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.compiler.config

from bench.gap_stats import CONTROL, Result, append_result, read_results, table
from nanochat.config import TrainConfig, digest, with_overrides
from nanochat.evaluation import loss as loss_eval
from nanochat.loop.logs import git_commit
from nanochat.loop.setup import Run, prepare
from nanochat.loop.stepping import Stepper
from nanochat.machine.device import keep_freed_memory
from nanochat.recipes import d12_moe, shrink_to_tiny
from nanochat.stats import PHASES, WARMUP_STEPS, Hooks

ROLES: dict[str, dict[str, Any]] = {
    "all": {"precision.linears": "fp8", "precision.experts": "fp8"},
    "head": {"precision.linears": "fp8_head"},
    "qkv": {"precision.linears": "fp8_qkv"},
    "out": {"precision.linears": "fp8_out"},
    "experts": {"precision.experts": "fp8"},
}
STEP_TOKENS = 16_384
EVAL_TOKENS = 3 * STEP_TOKENS  # the validation split of the embedded corpus, packed
MAX_EPOCHS = 4


def variant_config(variant: str, seed: int, num_steps: int, *, is_tiny: bool) -> TrainConfig:
    """The recipe with one role in FP8, or none for the control."""
    base = d12_moe(num_steps)
    if is_tiny:
        base = with_overrides(shrink_to_tiny(base), {"schedule.num_steps": num_steps})
    total = {} if is_tiny else {"data.total_batch_tokens": STEP_TOKENS}
    evaluation = {"eval.every": num_steps, "eval.num_tokens": 1024 if is_tiny else EVAL_TOKENS}
    return with_overrides(base, {**total, **evaluation, "run.seed": seed, **ROLES.get(variant, {})})


def run_once(variant: str, config: TrainConfig) -> Result:
    """Trains one config to its end and evaluates it."""
    started_s = time.perf_counter()
    run = prepare(config, Hooks())
    try:
        return _train(variant, run, started_s)
    finally:
        run.feed.close()


def _train(variant: str, run: Run, started_s: float) -> Result:
    assert run.val_lanes is not None
    take_step = Stepper(run)
    steps = [take_step(step) for step in range(run.num_steps)]
    counted = steps[WARMUP_STEPS:] or steps[-1:]
    forward, backward = PHASES.index("forward"), PHASES.index("backward")
    micro_ms = statistics.median(s.phases_ms[forward] + s.phases_ms[backward] for s in counted)
    tokens = run.feed.num_micro_steps * run.config.micro_batch_tokens
    tail = [step.loss for step in steps[-max(1, len(steps) // 10) :]]
    bpb = loss_eval.bits_per_byte(run.model, run.val_lanes, run.token_bytes, run.config.eval.num_tokens, run.ranks)
    return Result(
        variant=variant,
        seed=run.config.run.seed,
        config_sha256=digest(run.config),
        device=run.device.name,
        torch=torch.__version__,
        commit=git_commit(),
        num_steps=run.num_steps,
        epoch=run.feed.epoch,
        skipped_steps=sum(not step.active for step in steps),
        val_bpb=bpb,
        train_loss=statistics.fmean(tail),
        tok_per_sec=tokens / statistics.median(s.dt_ms for s in counted) * 1e3,
        micro_tok_per_sec=tokens / micro_ms * 1e3,
        wall_s=time.perf_counter() - started_s,
    )


def _measure(args: argparse.Namespace, is_tiny: bool) -> list[Result]:
    """All results that are wanted and known in the end."""
    began_s, longest_s = time.perf_counter(), 0.0
    known = [r for r in read_results(args.out) if r.torch == torch.__version__]
    if not is_tiny:
        known = [r for r in known if r.device == torch.cuda.get_device_name()]
    found: list[Result] = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for variant in (CONTROL, *args.roles):
            config = variant_config(variant, seed, args.num_steps, is_tiny=is_tiny)
            done = [r for r in known if r.config_sha256 == digest(config)]
            if not done and time.perf_counter() - began_s + longest_s < args.stop_after_s:
                done = [run_once(variant, config)]
                append_result(args.out, done[0])
                longest_s = max(longest_s, done[0].wall_s)
                print(json.dumps(asdict(done[0])), file=sys.stderr, flush=True)
                gc.collect()
                torch.cuda.empty_cache()
            found += done[:1]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, read and added to")
    parser.add_argument("--roles", nargs="+", choices=list(ROLES), default=list(ROLES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=42)
    parser.add_argument("--num-steps", type=int, default=160)
    parser.add_argument("--stop-after-s", type=float, default=math.inf)
    args = parser.parse_args(argv)
    is_tiny = not torch.cuda.is_available()
    if is_tiny:
        keep_freed_memory()
    # Every variant keeps its graphs, of two kinds of block and the head, in training and in evaluation.
    torch.compiler.config.recompile_limit = 8 * (1 + len(ROLES))
    results = _measure(args, is_tiny)
    place = "CPU, tiny size: nothing here says anything about a GPU" if is_tiny else torch.cuda.get_device_name()
    print(f"{place} | torch {torch.__version__} | {args.num_steps} steps")
    print("\n".join(table(results, args.roles)))
    if any(r.epoch > MAX_EPOCHS for r in results):
        print(f"some runs have read text more than {MAX_EPOCHS} times; take fewer steps")
    missing = args.seeds * (1 + len(args.roles)) - len(results)
    if missing:
        print(f"{missing} runs are missing; the same command goes on with them")


if __name__ == "__main__":
    main()
