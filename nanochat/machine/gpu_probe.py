"""Measures the GPUs of this machine: `python -m nanochat.machine.gpu_probe` prints JSON.

A program of its own, because the command line that asks imports no torch, and because what hangs here can be ended.
Each GPU multiplies large bf16 matrices of random numbers until its clocks have settled, alone, so that a slow one
shows; then all of them add up one large tensor. GPUs that another process uses are not measured.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from nanochat.machine import kernel_libraries

MATRIX_SIZE = 8192
WARMUP_S = 1.0
NUM_WINDOWS, WINDOW_S = 5, 0.2
ALL_REDUCE_BYTES = 256 * 2**20
BUSY_ABOVE_MIB = 2048  # an idle card with its driver's own memory stays below


def probe() -> dict[str, Any]:
    """What torch and the driver say, and what was measured."""
    driver, cards = _ask_driver()
    seen: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda_build": torch.version.cuda,
        "driver": driver,
        "num_driver_gpus": len(cards),
        "gpus": [],
        "all_reduce_gb_per_s": None,
        "no_faster_kernels": [],
    }
    if not torch.cuda.is_available():
        return seen
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        used = cards.get(f"GPU-{properties.uuid}", {"used_mib": 0.0, "pids": []})
        gpu = {"index": index, "name": properties.name, "memory_mib": properties.total_memory / 2**20, **used}
        gpu["is_busy"] = bool(used["pids"]) or used["used_mib"] > BUSY_ABOVE_MIB
        seen["gpus"].append(gpu)
    seen["no_faster_kernels"] = kernel_libraries.problems(torch.device("cuda", 0))
    is_idle = not any(gpu["is_busy"] for gpu in seen["gpus"])
    for gpu in seen["gpus"]:
        gpu["bf16_tflop_per_s"] = None if gpu["is_busy"] else matmul_tflop_per_s(torch.device("cuda", gpu["index"]))
    if is_idle and len(seen["gpus"]) > 1:
        seen["all_reduce_gb_per_s"] = all_reduce_gb_per_s(len(seen["gpus"]))
    return seen


def matmul_tflop_per_s(
    device: torch.device, size: int = MATRIX_SIZE, warmup_s: float = WARMUP_S, window_s: float = WINDOW_S
) -> float:
    """The median speed of bf16 products over some windows of time, after a warm-up."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)

    def time_of(num_products: int) -> float:
        start = time.perf_counter()
        for _ in range(num_products):
            torch.mm(left, right, out=out)
        out[0, 0].item()  # waits for the device
        return time.perf_counter() - start

    time_of(1)
    begin, num_products = time.perf_counter(), 1
    while time.perf_counter() - begin < warmup_s:
        num_products = max(1, round(num_products * window_s / max(time_of(num_products), 1e-6)))
    seconds_each = statistics.median(time_of(num_products) / num_products for _ in range(NUM_WINDOWS))
    return 2 * size**3 / seconds_each / 1e12


def all_reduce_gb_per_s(world_size: int, num_bytes: int = ALL_REDUCE_BYTES, device_type: str = "cuda") -> float:
    """Bus bandwidth of an all-reduce: the bytes that each rank has to send, over time."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(  # pyright: ignore[reportPrivateImportUsage]
            _reduce, args=(world_size, num_bytes, device_type, folder), nprocs=world_size
        )
        seconds = max(float(path.read_text()) for path in Path(folder).glob("seconds-*"))
    return 2 * (world_size - 1) / world_size * num_bytes / seconds / 1e9


def _reduce(rank: int, world_size: int, num_bytes: int, device_type: str, folder: str) -> None:
    on_gpu = device_type == "cuda"
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
    )
    values = torch.ones(num_bytes // 2, dtype=torch.bfloat16, device=device)
    times: list[float] = []
    for _ in range(15):
        values.fill_(1.0)
        values[0].item()
        start = time.perf_counter()
        dist.all_reduce(values)
        values[0].item()
        times.append(time.perf_counter() - start)
    Path(folder, f"seconds-{rank}").write_text(str(statistics.median(times[5:])))
    dist.destroy_process_group()


def _ask_driver() -> tuple[str | None, dict[str, dict[str, Any]]]:
    """The driver's version, and what is taken of each card by its uuid; nothing where there is no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        cards: dict[str, dict[str, Any]] = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            used_mib = int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) / 2**20
            cards[str(pynvml.nvmlDeviceGetUUID(handle))] = {"used_mib": used_mib, "pids": _pids_on(handle)}
        return str(pynvml.nvmlSystemGetDriverVersion()), cards
    except Exception as error:  # whatever is wrong with the driver, there is no GPU then, and its words say why
        print(f"no NVIDIA driver: {error}", file=sys.stderr)
        return None, {}


def _pids_on(handle: Any) -> list[int]:
    """Who computes on a card; empty where the driver does not say, as in some containers: memory tells then."""
    import pynvml

    try:
        return [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    except pynvml.NVMLError:
        return []


if __name__ == "__main__":
    print(json.dumps(probe()))
