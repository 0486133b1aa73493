"""How long one optimizer step takes, variant by variant, in one process on one machine.

    python -m bench.step [--steps 60] [--rounds 3] [--together 5] [--total-batch 65536] [--profile FOLDER] [VARIANT ...]

A variant is a list of config overrides on the recipe d12_moe_fp8. The control is the same model in bf16 throughout. The
variants are built in batches of `--together`, each with a control of its own, and the counted steps of a batch are
taken in rounds, a few of each variant at a time, so that a drift of the machine meets all of them. Times are medians
over the counted steps (no warm-up, no recompile), with the middle 80 % as spread. Data is the embedded corpus, real
text. In a skewed variant a bias makes the routers prefer some experts, and follows them as they learn to level it;
`max_vio` says what the fullest expert had above its share.

Without a GPU the size is tiny, which shows that the benchmark works and nothing else.
"""

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nanochat.config import TrainConfig, with_overrides
from nanochat.loop.setup import Run, prepare
from nanochat.loop.stepping import Stepper
from nanochat.metering import meter as clock
from nanochat.metering.meter import RankStep
from nanochat.model import compiling
from nanochat.model.moe import ROUTER_STATS, stat_names
from nanochat.recipes import d12_moe_fp8, shrink_to_tiny
from nanochat.stats import Hooks

_BF16 = {"precision.linears": "bf16", "precision.experts": "bf16"}
_STOCK = {"compile.kernels": "torch", "model.attention": "flash"}
_SKEWED = {"moe.router_bias_rate": 1e-12}  # a bias that in effect stays what `_skew` makes it
VARIANTS: dict[str, dict[str, Any]] = {
    "bf16_static_exact": {**_BF16},
    "bf16_static_cap1.0": {**_BF16, "moe.capacity_factor": 1.0},
    "bf16_static_skewed": {**_BF16, **_SKEWED},
    "bf16_dynamic_exact": {**_BF16, "compile.mode": "dynamic"},
    "bf16_nocompile_exact": {**_BF16, "compile.mode": "none"},
    "bf16_stock_exact": {**_BF16, **_STOCK},
    "fp8_static_exact": {},
    "fp8_static_cap1.0": {"moe.capacity_factor": 1.0},
    "fp8_static_cap1.25": {"moe.capacity_factor": 1.25},
    "fp8_static_skewed": {**_SKEWED},
    "fp8_dynamic_cap1.0": {"moe.capacity_factor": 1.0, "compile.mode": "dynamic"},
    "fp8_nocompile_cap1.0": {"moe.capacity_factor": 1.0, "compile.mode": "none"},
    "fp8_linears_static_exact": {"precision.experts": "bf16"},
    "fp8_experts_static_exact": {"precision.linears": "bf16"},
    "fp8_stock_exact": {**_STOCK},
    "dense_bf16_static": {**_BF16, "moe": None},  # the twin: as many matrix products per token, and no routing
    "dense_fp8_static": {"moe": None},
}
CONTROL = "bf16_static_exact"
_PHASE_COLUMNS = ("data_ms", "forward_ms", "backward_ms", "optimizer_ms")
_SKEW = 0.5  # the fullest expert's load over its share, less 1, that a skewed variant is steered to
_SKEW_STEP = 1.05  # factor on a layer's bias where its load is off that


def variant_config(base: TrainConfig, variant: str, total_batch: int) -> TrainConfig:
    """The recipe with a variant's overrides."""
    overrides = {"data.total_batch_tokens": total_batch, **VARIANTS[variant]}
    if overrides.pop("moe", base.moe) is None:
        overrides = {name: value for name, value in overrides.items() if not name.startswith("moe.")}
        return with_overrides(_without_experts(base), {**overrides, "precision.experts": "bf16"})
    return with_overrides(base, overrides)


def _without_experts(base: TrainConfig) -> TrainConfig:
    return replace(base, moe=None, precision=replace(base.precision, experts="bf16"))


@dataclass
class Leg:
    """A variant that has been built and warmed up; it owns a run on the device until `close`."""

    variant: str
    config: TrainConfig
    run: Run
    take_step: Stepper
    first_step_s: float
    peak_mib: float
    graphs_built: int
    next_step: int
    steps: list[RankStep] = field(default_factory=list[RankStep])
    skew: "_Skew | None" = None

    @staticmethod
    def build(variant: str, config: TrainConfig, num_warmup: int) -> "Leg":
        """Prepares the run and takes its first steps."""
        torch._dynamo.reset()  # pyright: ignore[reportPrivateUsage]
        taken_mib = _allocated_mib()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        run = prepare(config, Hooks())
        skew = _Skew(run) if variant.endswith("skewed") else None
        take_step = Stepper(run)
        first = take_step(0)
        leg = Leg(variant, config, run, take_step, first.dt_ms / 1e3, 0.0, compiling.num_graphs(), 1, skew=skew)
        leg.take(num_warmup - 1)
        leg.steps.clear()
        leg.peak_mib = run.device.peak_mib() - taken_mib
        return leg

    def take(self, num_steps: int) -> None:
        """Takes some counted steps."""
        for _ in range(num_steps):
            self.steps.append(self.take_step(self.next_step))
            self.next_step += 1
            if self.skew is not None:
                self.skew.follow(self.steps[-1].router)

    def figures(self) -> dict[str, float]:
        """What the counted steps say."""
        config, steps = self.config, self.steps
        dts = sorted(s.dt_ms for s in steps)
        tokens = config.data.total_batch_tokens or 0
        tok_per_sec = tokens / statistics.median(dts) * 1e3
        router = clock.summarize_router(config, steps[-1:])
        dropped = router.dropped_pct if router else 0.0
        mfu, useful = clock.mfu_pct(config, tok_per_sec, self.run.device.peak_flops or float("nan"), dropped)
        return {
            "first_step_s": self.first_step_s,
            "dt_ms": statistics.median(dts),
            "dt_p10_ms": dts[len(dts) // 10],
            "dt_p90_ms": dts[-1 - len(dts) // 10],
            **{name: statistics.median(clock.phase_columns([s])[name] for s in steps) for name in _PHASE_COLUMNS},
            "tok_per_sec": tok_per_sec,
            "mfu_pct": mfu,
            "useful_mfu_pct": useful,
            "dropped_pct": dropped,
            "max_vio": router.max_vio if router else 0.0,
            "peak_mib": self.peak_mib,
            "loss": steps[-1].loss,
            "num_steps": len(steps),
        }

    def close(self) -> None:
        """Gives its memory back."""
        self.run.feed.close()


def _allocated_mib() -> float:
    return torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


class _Skew:
    """Keeps a model's routers at a skewed load by a bias that rises evenly from the last expert to the first."""

    def __init__(self, run: Run) -> None:
        self._routers = run.model.routers()
        self._num_stats = len(stat_names(run.config.moe))
        self._place = ROUTER_STATS.index("max_vio")
        self._spreads = dict.fromkeys(self._routers, 0.03)
        self._set()

    def follow(self, stats: Sequence[float]) -> None:
        """Moves each layer's bias by what its last step measured, (L x S,) flat."""
        for layer, spread in self._spreads.items():
            found = stats[layer * self._num_stats + self._place]
            self._spreads[layer] = max(spread * (_SKEW_STEP if found < _SKEW else 1 / _SKEW_STEP), 1e-4)
        self._set()

    def _set(self) -> None:
        for layer, router in self._routers.items():
            assert router.bias is not None
            spread, num_experts = self._spreads[layer], router.bias.shape[0]
            router.bias.copy_(torch.linspace(spread, -spread, num_experts, device=router.bias.device))


def _profile(step: Any, file: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
    averages: Any = profiler.key_averages()
    file.write_text(averages.table(sort_by="self_cuda_time_total", row_limit=70, max_name_column_width=110))


def _batches(variants: Sequence[str], together: int) -> Iterator[list[str]]:
    others = [v for v in variants if v != CONTROL]
    size = max(together - 1, 1)
    for start in range(0, max(len(others), 1), size):
        yield [CONTROL, *others[start : start + size]]


def _measure(batch: Sequence[str], base: TrainConfig, args: argparse.Namespace, total_batch: int) -> None:
    """Builds a batch of variants, takes their steps in rounds and prints a line for each."""
    legs: list[Leg] = []
    for variant in batch:
        try:
            legs.append(Leg.build(variant, variant_config(base, variant, total_batch), args.warmup))
        except Exception as error:  # one variant that fails must not hide the others
            print(f"{variant:<26} FAILED {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
            if args.verbose:
                import traceback

                traceback.print_exc()
            gc.collect()
    for _ in range(args.rounds):
        for leg in legs:
            leg.take(max(args.steps // args.rounds, 1))
    control_ms = next((leg.figures()["dt_ms"] for leg in legs if leg.variant == CONTROL), float("nan"))
    for leg in legs:
        _print(leg, control_ms)
        if args.profile:
            _profile(lambda leg=leg: leg.take(1), args.profile / f"{leg.variant}.txt")
        leg.close()


def _print(leg: Leg, control_ms: float) -> None:
    f = leg.figures()
    phases = ", ".join(f"{name.removesuffix('_ms')} {f[name]:.1f}" for name in _PHASE_COLUMNS)
    print(
        f"{leg.variant:<26} {f['dt_ms']:8.1f} ms [{f['dt_p10_ms']:.1f}, {f['dt_p90_ms']:.1f}] ({phases})  "
        f"{f['tok_per_sec']:>9,.0f} tok/s  x {control_ms / f['dt_ms']:.3f}  "
        f"mfu {f['mfu_pct']:5.2f} ({f['useful_mfu_pct']:.2f} useful)  peak {f['peak_mib']:>7,.0f} MiB  "
        f"loss {f['loss']:.4f}  max_vio {f['max_vio']:.2f}  dropped {f['dropped_pct']:.1f} %  "
        f"first step {f['first_step_s']:.1f} s",
        flush=True,
    )
    backends = leg.run.backends
    print(json.dumps({"variant": leg.variant, "backends": backends, **f}), file=sys.stderr, flush=True)


def main() -> None:
    """Prints a table, and one JSON line per variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=[], metavar="VARIANT")
    parser.add_argument("--steps", type=int, default=60, help="counted steps of each variant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", type=int, default=5, help="variants on the device at a time")
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--total-batch", type=int, default=None, help="tokens; 65,536, or 512 without a GPU")
    parser.add_argument("--profile", type=Path, default=None)
    parser.add_argument("--verbose", action="store_true", help="where a variant failed")
    args = parser.parse_args()
    unknown = set(args.variants) - set(VARIANTS)
    if unknown:
        sys.exit(f"unknown variants {sorted(unknown)}; there are {', '.join(VARIANTS)}")
    on_gpu = torch.cuda.is_available()
    base = d12_moe_fp8(280) if on_gpu else shrink_to_tiny(d12_moe_fp8(280))
    total_batch = args.total_batch or (65536 if on_gpu else 512)
    name = torch.cuda.get_device_name() if on_gpu else "CPU, tiny size: no time here says anything about a GPU"
    print(f"{name} | torch {torch.__version__} | {total_batch:,} tokens per step")
    for batch in _batches(args.variants or list(VARIANTS), args.together):
        _measure(batch, base, args, total_batch)
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
