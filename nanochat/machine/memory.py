"""What to lower when a run does not fit into memory: a sentence from the error, the config and the peak.

torch's own message names bytes and allocator settings; the reader of a sweep's report needs to know which field
of the config decides. Works on exceptions by their names and words, so that torch is not needed to read it.
"""

import resource
from collections.abc import Iterator
from pathlib import Path

from nanochat.config import TrainConfig

_CPU_ALLOCATOR = ("can't allocate memory", "DefaultCPUAllocator: not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch's own error, Python's, or that of torch's allocator for the CPU."""
    return any(
        isinstance(cause, MemoryError)
        or type(cause).__name__ == "OutOfMemoryError"
        or (isinstance(cause, RuntimeError) and any(words in str(cause) for words in _CPU_ALLOCATOR))
        for cause in causes(error, or_what_it_followed=True)  # ending a CUDA graph's recording fails after the memory
    )


def memory_advice(error: BaseException, config: TrainConfig, peak_mib: float) -> str:
    """One sentence: that memory ran out, at which peak, which fields to lower and what they are now; then the error."""
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"out of memory at a peak of {peak_mib:,.0f} MiB; lower {_or(_fields(config))} ({first_line})"


def peak_mib() -> float:
    """Most memory that this process has held: of its GPU, else its resident set."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def free_memory_bytes() -> int | None:
    """Memory that new processes can take on this machine, or in this container if that allows less; None: unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    left = [number for number in (available, left_in_group()) if number is not None]
    return min(left, default=None)


def left_in_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's own limit leaves, pages of files not counted, as they give way; None without a limit."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            stat = dict(line.split() for line in (root / limit).with_name("memory.stat").read_text().splitlines())
            return int((root / limit).read_text()) - int((root / used).read_text()) + int(stat.get(cache, 0))
        except (OSError, ValueError):  # not this version, or "max": no limit
            continue
    return None


def _fields(config: TrainConfig) -> list[str]:
    """Those that still can be lowered, the one that changes least about the result first."""
    batch, fields = config.data.device_batch_size, [f"model.seq_len (now {config.model.seq_len})"]
    if batch > 1:
        fields.insert(0, f"data.device_batch_size (now {batch}; the total batch stays)")
    if config.moe is not None:
        factor = config.moe.capacity_factor
        fields.append(f"moe.capacity_factor (now {'None, which drops nothing' if factor is None else f'{factor:g}'})")
    return fields


def _or(items: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def causes(error: BaseException, *, or_what_it_followed: bool = False) -> Iterator[BaseException]:
    """The error and what caused it, the root last; torch's compiler keeps the cause in its own field.

    With `or_what_it_followed`, an error without a cause continues at the one that was being handled when it was raised.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        before = cause.__context__ if or_what_it_followed and not cause.__suppress_context__ else None
        cause = getattr(cause, "inner_exception", None) or cause.__cause__ or before
