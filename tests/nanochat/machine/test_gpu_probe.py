"""The probe's arithmetic, on the CPU; with GPUs it is run as it stands."""

import json
import subprocess
import sys

import pytest
import torch

from nanochat.machine.gpu_probe import all_reduce_gb_per_s, matmul_tflop_per_s


def test_a_speed_is_a_median_of_floating_point_operations_over_time() -> None:
    speed = matmul_tflop_per_s(torch.device("cpu"), size=128, warmup_s=0.05, window_s=0.01)
    assert 0 < speed < 100


@pytest.mark.integration
def test_a_bandwidth_is_measured_between_two_processes() -> None:
    assert 0 < all_reduce_gb_per_s(2, num_bytes=2**16, device_type="cpu") < 1000


def test_without_a_gpu_the_program_still_says_what_torch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = [sys.executable, "-m", "nanochat.machine.gpu_probe"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    seen = json.loads(done.stdout)
    assert (seen["torch"], seen["gpus"], seen["all_reduce_gb_per_s"]) == (torch.__version__, [], None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_every_gpu_is_measured_unless_somebody_uses_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nanochat.machine.gpu_probe"], capture_output=True, text=True, timeout=180
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen["gpus"]) == torch.cuda.device_count()
    assert all(gpu["is_busy"] or gpu["bf16_tflop_per_s"] > 10 for gpu in seen["gpus"])
