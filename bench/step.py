"""How long one optimizer step takes, variant by variant, in one process on one machine.

    python -m bench.step [--steps 30] [--total-batch 65536] [--profile FOLDER] [VARIANT ...]

A variant is a list of config overrides on the recipe d12_moe_fp8. The control is the same model in bf16 throughout; it
runs first and last, so that a drift of the machine is seen. Times are medians over the counted steps (no warm-up, no
recompile), with the middle 80 % as spread. Data is the embedded corpus, real text. Without a GPU the size is tiny,
which shows that the benchmark works and nothing else.
"""

import argparse
import gc
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from nanochat.config import TrainConfig, with_overrides
from nanochat.loop.setup import prepare
from nanochat.loop.stepping import Stepper
from nanochat.metering import meter as clock
from nanochat.model import compiling
from nanochat.recipes import d12_moe_fp8, shrink_to_tiny
from nanochat.stats import Hooks

_BF16 = {"precision.linears": "bf16", "precision.experts": "bf16"}
VARIANTS: dict[str, dict[str, Any]] = {
    "bf16_static_exact": {**_BF16},
    "bf16_static_cap1.0": {**_BF16, "moe.capacity_factor": 1.0},
    "bf16_dynamic_exact": {**_BF16, "compile.mode": "dynamic"},
    "fp8_static_exact": {},
    "fp8_static_cap1.0": {"moe.capacity_factor": 1.0},
    "fp8_static_cap1.25": {"moe.capacity_factor": 1.25},
    "fp8_dynamic_cap1.0": {"moe.capacity_factor": 1.0, "compile.mode": "dynamic"},
    "fp8_nocompile_cap1.0": {"moe.capacity_factor": 1.0, "compile.mode": "none"},
    "fp8_linears_static_exact": {"precision.experts": "bf16"},
    "fp8_experts_static_exact": {"precision.linears": "bf16"},
    "bf16_nocompile_exact": {**_BF16, "compile.mode": "none"},
}
CONTROL = "bf16_static_exact"
_PHASE_COLUMNS = ("data_ms", "forward_ms", "backward_ms", "optimizer_ms")


def measure(config: TrainConfig, num_steps: int, num_warmup: int, profile_file: Path | None) -> dict[str, float]:
    """Builds the run, steps it, and returns its figures."""
    torch.compiler.reset()
    run = prepare(config, Hooks())
    take_step = Stepper(run)
    first_ms = take_step(0).dt_ms
    graphs = compiling.num_graphs()
    steps = [take_step(step) for step in range(1, num_warmup + num_steps)][num_warmup - 1 :]
    if profile_file is not None:
        _profile(lambda: take_step(num_warmup + num_steps), profile_file)
    dts = sorted(s.dt_ms for s in steps)
    tok_per_sec = config.data.total_batch_tokens / statistics.median(dts) * 1e3 if config.data.total_batch_tokens else 0
    run.feed.close()
    router = clock.summarize_router(config, steps[-1:])
    dropped = router.dropped_pct if router else 0.0
    mfu, useful = clock.mfu_pct(config, tok_per_sec, run.device.peak_flops or float("nan"), dropped)
    return {
        "first_step_s": first_ms / 1e3,
        "dt_ms": statistics.median(dts),
        "dt_p10_ms": dts[len(dts) // 10],
        "dt_p90_ms": dts[-1 - len(dts) // 10],
        **{name: statistics.median(clock.phase_columns([s])[name] for s in steps) for name in _PHASE_COLUMNS},
        "tok_per_sec": tok_per_sec,
        "mfu_pct": mfu,
        "useful_mfu_pct": useful,
        "dropped_pct": dropped,
        "max_vio": router.max_vio if router else 0.0,
        "peak_mib": steps[-1].peak_mib,
        "loss": steps[-1].loss,
        "recompiled": compiling.num_graphs() - graphs,
    }


def _profile(step: Any, file: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
    averages: Any = profiler.key_averages()
    table: str = averages.table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=90)
    file.write_text(table)


def main() -> None:
    """Prints a table, and one JSON line per variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=[], metavar="VARIANT")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--total-batch", type=int, default=None, help="tokens; 65,536, or 512 without a GPU")
    parser.add_argument("--profile", type=Path, default=None)
    args = parser.parse_args()
    unknown = set(args.variants) - set(VARIANTS)
    if unknown:
        sys.exit(f"unknown variants {sorted(unknown)}; there are {', '.join(VARIANTS)}")
    chosen = args.variants or [v for v in VARIANTS if v != CONTROL]
    on_gpu = torch.cuda.is_available()
    base = d12_moe_fp8(280) if on_gpu else shrink_to_tiny(d12_moe_fp8(280))
    total_batch = args.total_batch or (65536 if on_gpu else 512)
    name = torch.cuda.get_device_name() if on_gpu else "CPU, tiny size: no time here says anything about a GPU"
    print(f"{name} | torch {torch.__version__} | {total_batch:,} tokens per step")
    for variant in [CONTROL, *[v for v in chosen if v != CONTROL], CONTROL]:
        config = with_overrides(base, {"data.total_batch_tokens": total_batch, **VARIANTS[variant]})
        if on_gpu:
            torch.cuda.empty_cache()
        file = args.profile / f"{variant}.txt" if args.profile else None
        try:
            figures = measure(config, args.steps, args.warmup, file)
        except Exception as error:  # one variant that fails must not hide the others
            print(f"{variant:<26} FAILED {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
            gc.collect()
            continue
        gc.collect()
        f = figures
        phases = ", ".join(f"{name.removesuffix('_ms')} {f[name]:.1f}" for name in _PHASE_COLUMNS)
        print(
            f"{variant:<26} {f['dt_ms']:8.1f} ms [{f['dt_p10_ms']:.1f}, {f['dt_p90_ms']:.1f}] ({phases})  "
            f"{f['tok_per_sec']:>9,.0f} tok/s  mfu {f['mfu_pct']:5.2f} ({f['useful_mfu_pct']:.2f} useful)  "
            f"peak {f['peak_mib']:>7,.0f} MiB  loss {f['loss']:.4f}  first step {f['first_step_s']:.1f} s",
            flush=True,
        )
        print(json.dumps({"variant": variant, **figures}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
