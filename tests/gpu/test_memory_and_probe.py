"""A card that has no memory left is told with its peak, and a probe of the cards finds what they can do."""

import pytest
import torch

from nanochat.machine.gpu_probe import matmul_tflop_per_s, probe
from nanochat.machine.memory import is_out_of_memory, memory_advice, peak_mib
from nanochat.recipes import d12_moe

pytestmark = pytest.mark.gpu


def test_memory_that_a_card_does_not_have_is_told_with_the_peak(gpu: torch.device):
    torch.cuda.reset_peak_memory_stats(gpu)
    held = torch.ones(2**26, device=gpu)  # 256 MiB
    with pytest.raises(torch.OutOfMemoryError) as refused:
        torch.empty(2**50, device=gpu)
    assert is_out_of_memory(refused.value)
    assert held.numel() * 4 / 2**20 <= peak_mib() < 2**20
    assert "; lower data.device_batch_size (now " in memory_advice(refused.value, d12_moe(1), peak_mib())


def test_a_probe_names_the_card_and_leaves_one_that_is_in_use_unmeasured(gpu: torch.device):
    held = torch.empty(2**32, dtype=torch.uint8, device=gpu)  # seen also where the driver names no processes
    found = probe()["gpus"][torch.cuda.current_device()]
    del held
    assert found["name"] == torch.cuda.get_device_name()
    assert (found["is_busy"], found["bf16_tflop_per_s"]) == (True, None)  # this process is at work on it
    assert 1 < matmul_tflop_per_s(gpu) < 5000
