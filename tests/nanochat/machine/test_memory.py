"""The sentence that says what to lower when memory runs out."""

from pathlib import Path

import pytest
import torch
from torch._inductor.exc import InductorError

from nanochat.config import with_overrides
from nanochat.machine.memory import (
    free_memory_bytes,
    is_out_of_memory,
    left_in_group,
    memory_advice,
    peak_mib,
)
from nanochat.recipes import d12_moe


def test_an_allocation_that_the_cpu_refuses_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**52)
    assert is_out_of_memory(refused.value)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")])
def test_memory_errors_are_recognised_also_as_a_cause(error: Exception) -> None:
    outer = ValueError("the compiler gave up")
    outer.__cause__ = error
    assert is_out_of_memory(error)
    assert is_out_of_memory(outer)


def test_memory_that_runs_out_inside_of_the_compiler_is_recognised() -> None:
    assert is_out_of_memory(InductorError(torch.OutOfMemoryError("CUDA out of memory"), None))


def test_memory_that_runs_out_while_something_else_then_fails_is_recognised() -> None:
    error = RuntimeError("the recording was left unfinished")
    error.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    assert is_out_of_memory(error)
    error.__suppress_context__ = True
    assert not is_out_of_memory(error)


def test_other_errors_are_not_out_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_the_advice_names_the_peak_and_the_fields_with_their_values() -> None:
    config = with_overrides(
        d12_moe(num_steps=10), {"data.device_batch_size": 8, "model.seq_len": 2048, "moe.capacity_factor": 1.25}
    )
    assert memory_advice(torch.OutOfMemoryError("CUDA out of memory.\nmore"), config, 76123.4) == (
        "out of memory at a peak of 76,123 MiB; lower data.device_batch_size (now 8; the total batch stays), "
        "model.seq_len (now 2048) or moe.capacity_factor (now 1.25) (CUDA out of memory.)"
    )


def test_what_cannot_be_lowered_is_not_advised() -> None:
    config = with_overrides(d12_moe(num_steps=10), {"data.device_batch_size": 1, "moe.capacity_factor": None})
    advice = memory_advice(MemoryError(), config, 10.0)
    assert "device_batch_size" not in advice
    assert "moe.capacity_factor (now None, which drops nothing) (MemoryError)" in advice


def test_without_a_gpu_the_peak_is_the_largest_resident_set() -> None:
    held = torch.ones(2**24)  # 64 MiB
    assert held.sum() == 2**24
    assert 64 < peak_mib() < 2**20


def test_free_memory_is_known_here_and_some_of_it_is_free():
    free = free_memory_bytes()
    assert free is not None
    assert 2**20 < free < 2**50


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 1\ninactive_file 200"}, 500),
        ({"memory.max": "max", "memory.current": "700", "memory.stat": "inactive_file 200"}, None),
        (
            {
                "memory/memory.limit_in_bytes": "1000",
                "memory/memory.usage_in_bytes": "900",
                "memory/memory.stat": "total_inactive_file 50",
            },
            150,
        ),
        ({}, None),
    ],
)
def test_a_containers_limit_leaves_what_is_neither_used_nor_a_files_page(
    tmp_path: Path, files: dict[str, str], left: int | None
):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert left_in_group(tmp_path) == left
