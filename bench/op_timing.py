# pyright: basic
# Many of torch's operators are typed in part only.
"""Times operations in CUDA graphs and compares them with float64, for bench/ops.py and bench/op_experts.py."""

import math
import statistics
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanochat.kernels.hopper import prepare_quack
from nanochat.machine.device import peak_bf16_flops

N, D, H, E, K, V, T, HEADS, HEAD_DIM = 16384, 768, 1536, 8, 2, 32768, 1024, 12, 64
R = N * K
BF16, FP8, FP32 = torch.bfloat16, torch.float8_e4m3fn, torch.float32


@dataclass(frozen=True)
class Line:
    """One row of the table; `floor_us` is 0 where none was counted."""

    name: str
    us: float
    floor_us: float
    error_db: float | None = None


class Bench:
    """Collects lines; an operation that fails is a line of its own and stops none of the others."""

    def __init__(self, only: Sequence[str]) -> None:
        self._only = only
        self.lines: list[Line] = []
        self.device = torch.device("cuda")
        self.flops = peak_bf16_flops(torch.cuda.get_device_name()) or math.nan
        self.bytes_per_s = _copy_bandwidth()

    def wants(self, section: str) -> bool:
        """True if --only names the section, or nothing."""
        return not self._only or any(word in section for word in self._only)

    def time(
        self,
        name: str,
        call: Callable[[], object],
        *,
        flops: float = 0,
        num_bytes: float = 0,
        fp8: bool = False,
        db: float | None = None,
    ) -> None:
        """Times `call` and prints its line."""
        try:
            us = _graph_us(call)
        except Exception as error:
            print(f"{name:<52} FAILED {type(error).__name__}: {str(error).splitlines()[0][:150]}", flush=True)
            traceback.print_exc(limit=-4, file=sys.stderr)
            torch.cuda.synchronize()
            return
        floor = max(flops / self.flops / (2 if fp8 else 1), num_bytes / self.bytes_per_s) * 1e6
        self.lines.append(Line(name, us, floor, db))
        rate = f"{flops / us / 1e6:6.0f} TFLOP/s" if flops else f"{num_bytes / us / 1e6:6.2f} TB/s   "
        error = "" if db is None else f"  {db:5.1f} dB"
        print(f"{name:<52} {us:8.1f} us  floor {floor:7.1f}  {rate}{error}", flush=True)


def _copy_bandwidth() -> float:
    source = torch.randn(2**29, device="cuda", dtype=FP32)
    target = torch.empty_like(source)
    us = _graph_us(lambda: target.copy_(source))
    return 2 * source.nbytes / us * 1e6


def _graph_us(call: Callable[[], object], calls: int = 10, replays: int = 20) -> float:
    """Median microseconds of one call inside a replayed CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            call()
    times = []
    for _ in range(replays + 2):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) * 1e3 / calls)
    return statistics.median(times[2:])


def sqnr_db(actual: Tensor, exact: Tensor) -> float:
    """Signal to noise of `actual` against `exact`, in decibels; -inf for a NaN."""
    noise = (actual.double() - exact.double()).norm().item()
    if not math.isfinite(noise):
        return -math.inf
    return 20 * math.log10(exact.double().norm().item() / noise) if noise > 0 else math.inf


def grad_of(leaf: Tensor) -> Tensor:
    """The gradient of a leaf that has one."""
    assert leaf.grad is not None
    return leaf.grad


def say_checked(name: str, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Prints how far each of some results is from its exact value."""
    found = {part: sqnr_db(*pair) for part, pair in pairs.items()}
    print(f"  check {name}: " + ", ".join(f"{part} {db:.1f} dB" for part, db in found.items()), flush=True)


def attempt(name: str, check: Callable[[], None]) -> None:
    """Runs a check; its failure is a line of its own."""
    try:
        check()
    except Exception as error:
        print(f"  check {name} FAILED {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
        traceback.print_exc(limit=-4, file=sys.stderr)


def quack_interface() -> Any:
    """QuACK's products, with its FP8 set up as the trainer uses it."""
    prepare_quack()
    import quack.gemm_interface  # pyright: ignore[reportMissingImports]

    return quack.gemm_interface
