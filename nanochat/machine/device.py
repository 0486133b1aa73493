"""The processor a run is on: which one, what it is called, how fast it could be, how much memory it took.

Everything that differs between a GPU and a CPU is decided here once; the rest of the trainer asks `Device`.
"""

import ctypes
import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path

import torch

from nanochat.cards import peak_bf16_flops
from nanochat.config import ConfigError, RunConfig

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Device:
    """One rank's processor and the dtype its matrices multiply in."""

    torch_device: torch.device
    name: str
    compute_dtype: torch.dtype

    @property
    def is_cuda(self) -> bool:
        """Whether this is a GPU."""
        return self.torch_device.type == "cuda"

    @property
    def peak_flops(self) -> float | None:
        """Dense bf16 FLOP/s; None where unknown (every CPU)."""
        return peak_bf16_flops(self.name) if self.is_cuda else None

    def synchronize(self) -> None:
        """Waits until all work given to the GPU is done."""
        if self.is_cuda:
            torch.cuda.synchronize(self.torch_device)

    def peak_mib(self) -> float:
        """Most memory taken so far: torch's max_memory_allocated on a GPU, the peak resident set on a CPU."""
        if self.is_cuda:
            return torch.cuda.max_memory_allocated(self.torch_device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def keep_freed_memory() -> None:
    """Has this process keep, for good, the memory that its large tensors give back; without glibc nothing happens.

    For runs on a CPU, before the first tensor and on the thread that trains: the tensors of a step come and go at every
    step, and fetched from the kernel again each time, they cost about as much as the step's arithmetic.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def cpu_has_fast_bf16() -> bool:
    """True if the processor multiplies bf16 itself; others convert every number and are slower than in fp32."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    words = set(cpuinfo.read_text(encoding="ascii", errors="replace").split())
    return bool({"avx512_bf16", "amx_bf16"} & words)


def check_fp8_units(name: str, capability: tuple[int, int]) -> None:
    """Raises ConfigError for a GPU that cannot multiply in FP8, by its compute capability."""
    if capability < (8, 9):
        raise ConfigError(
            f"{name} (compute capability {capability[0]}.{capability[1]}) has no FP8 matrix units; "
            f"8.9 or later is needed: train in bf16 (precision.linears and precision.experts; flags without any --fp8)"
        )


def open_device(run: RunConfig, uses_fp8: bool) -> Device:
    """Picks the device for this rank (LOCAL_RANK's GPU, or the CPU), and sets torch's global switches for it.

    Raises ConfigError where a GPU is asked for and there is none, or where it cannot multiply in FP8.
    """
    wants_cuda = run.device == "cuda" or (run.device is None and torch.cuda.is_available())
    if wants_cuda and not torch.cuda.is_available():
        raise ConfigError("run.device is 'cuda' but torch sees no GPU; check nvidia-smi, or leave run.device unset")
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if not wants_cuda:
        dtype = torch.bfloat16 if cpu_has_fast_bf16() else torch.float32
        return Device(torch.device("cpu"), platform.processor() or platform.machine(), dtype)
    index = int(os.environ.get("LOCAL_RANK", "0")) if torch.cuda.device_count() > 1 else 0
    torch_device = torch.device("cuda", index)
    torch.cuda.set_device(torch_device)
    torch.cuda.reset_peak_memory_stats(torch_device)
    torch.backends.cuda.matmul.allow_tf32 = False
    capability = torch.cuda.get_device_capability(torch_device)
    name = torch.cuda.get_device_name(torch_device)
    if uses_fp8:
        check_fp8_units(name, capability)
    return Device(torch_device, name, torch.bfloat16)
