"""Which processor a run is on, and how fast it could be."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from nanochat.config import ConfigError, RunConfig
from nanochat.machine.device import check_fp8_units, open_device, peak_bf16_flops


@pytest.fixture
def global_switches() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H800", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H800 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA H20-3e", 148e12),
        ("NVIDIA H100 80GB HBM2e", 756e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA GB200", 2.5e15),
        ("NVIDIA B200", 2.25e15),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("A100-SXM4-40GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
    ],
)
def test_the_peak_follows_from_the_cards_name(name: str, flops: float):
    assert peak_bf16_flops(name) == flops
    assert peak_bf16_flops(name.upper()) == flops


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-40GB MIG 7g.40gb",
        "NVIDIA A100-10C",
        "GRID A100D-4-20C",
        "NVIDIA L40S-8Q",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA RTX A4000",
        "NVIDIA A100X",
        "NVIDIA A10G",
        "NVIDIA H2000",
        "NVIDIA GB10",
        "NVIDIA",
        "",
        "Somebody's card",
    ],
)
def test_a_slice_of_a_card_or_one_whose_name_only_contains_a_known_one_has_no_known_peak(name: str):
    assert peak_bf16_flops(name) is None


def test_a_cpu_computes_in_bf16_where_that_is_fast_and_has_no_known_peak():
    device = open_device(RunConfig(device="cpu"), uses_fp8=True)
    assert device.torch_device.type == "cpu"
    assert device.compute_dtype in (torch.bfloat16, torch.float32)
    assert device.peak_flops is None
    assert device.name
    assert device.peak_mib() > 10
    device.synchronize()


@pytest.mark.usefixtures("global_switches")
def test_deterministic_is_switched_on_only_when_asked_for():
    open_device(RunConfig(device="cpu"), uses_fp8=False)
    assert not torch.are_deterministic_algorithms_enabled()
    open_device(RunConfig(device="cpu", deterministic=True), uses_fp8=False)
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"run\.device is 'cuda' but torch sees no GPU"):
        open_device(RunConfig(device="cuda"), uses_fp8=False)
    assert open_device(RunConfig(), uses_fp8=False).torch_device.type == "cpu"


def test_a_gpu_without_fp8_units_is_refused_by_name():
    check_fp8_units("NVIDIA L40S", (8, 9))
    with pytest.raises(ConfigError, match=r"NVIDIA A100 \(compute capability 8\.0\) has no FP8 matrix units; 8\.9 or"):
        check_fp8_units("NVIDIA A100", (8, 0))


PAGES_OF_TENSORS_THAT_COME_AND_GO = """
import torch
from pathlib import Path
from nanochat.machine.device import keep_freed_memory

def pages():
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[7])  # minflt

def come_and_go():
    before = pages()
    for _ in range(8):
        torch.ones(2**24)
    return pages() - before

fetched_anew = come_and_go()
keep_freed_memory()
come_and_go()
print(fetched_anew, come_and_go())
"""


def test_memory_that_tensors_give_back_is_kept_for_the_next_ones() -> None:
    """64 MiB are 16,384 pages of 4 KiB, or 32 of 2 MiB."""
    command = [sys.executable, "-c", PAGES_OF_TENSORS_THAT_COME_AND_GO]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    fetched_anew, kept = map(int, done.stdout.split())
    assert fetched_anew >= 8 * 32
    assert kept < fetched_anew / 8
