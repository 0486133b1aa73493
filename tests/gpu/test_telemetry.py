"""The sampler asks the right card, and a run's rows hold what it says."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from nanochat.config import RunConfig
from nanochat.machine.device import open_device
from nanochat.metering.telemetry import NOTHING, THREAD_NAME, GpuSampler, card_uuid, driver_readings
from nanochat.stats import Hooks, StepStats
from nanochat.train import train
from tests.helpers.configs import card_config

pytestmark = pytest.mark.gpu


def _sampling_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def test_a_busy_card_tells_clock_power_and_heat(gpu: torch.device):
    matrix = torch.randn(8192, 8192, device=gpu, dtype=torch.bfloat16)
    with GpuSampler.of(open_device(RunConfig(device="cuda"), uses_fp8=False)) as sampler:
        sampler.take()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            torch.mm(matrix, matrix)
            torch.cuda.synchronize()
        seen = sampler.take()
    assert seen.gpu_clock_mhz is not None
    assert 200 < seen.gpu_clock_mhz < 4000
    assert seen.gpu_power_w is not None
    assert 20 < seen.gpu_power_w < 2000
    assert seen.gpu_temperature_c is not None
    assert 10 < seen.gpu_temperature_c < 110
    assert seen.gpu_throttle_bits is not None
    assert seen.gpu_throttle_bits < 2**16
    assert _sampling_threads() == []


@pytest.mark.parametrize("by", ["number", "uuid"])
def test_the_card_is_the_right_one_whatever_cuda_visible_devices_renumbers(by: str):
    pynvml = pytest.importorskip("pynvml")
    pynvml.nvmlInit()
    outer = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[-1]
    last = int(outer) if outer.isdecimal() else pynvml.nvmlDeviceGetCount() - 1
    uuid = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(last))
    pynvml.nvmlShutdown()
    program = (
        "import torch; from nanochat.metering.telemetry import card_uuid; print(card_uuid(torch.device('cuda', 0)))"
    )
    seen = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": uuid if by == "uuid" else str(last)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.strip() == uuid


@pytest.mark.usefixtures("fresh_process")
def test_rows_hold_the_cards_numbers_and_the_thread_ends_with_the_run(capsys: pytest.CaptureFixture[str]):
    rows: list[StepStats] = []

    def keep(row: StepStats) -> None:
        rows.append(row)
        assert len(_sampling_threads()) == 1
        time.sleep(0.2)  # several readings in a run whose steps are much shorter than a second

    hooks = Hooks(on_step=keep)
    train(card_config(**{"schedule.num_steps": 15}), hooks)
    assert _sampling_threads() == []
    assert "no GPU telemetry" not in capsys.readouterr().out
    last = rows[-1]
    assert last.gpu_clock_mhz is not None
    assert last.gpu_power_w is not None
    assert last.gpu_temperature_c is not None
    assert last.gpu_throttle_bits is not None


def test_a_card_that_the_driver_does_not_know_costs_one_line(capsys: pytest.CaptureFixture[str]):
    with GpuSampler(lambda: driver_readings("GPU-00000000-0000-0000-0000-000000000000")) as sampler:
        while _sampling_threads():
            time.sleep(0.01)
        assert sampler.take() == NOTHING
    assert capsys.readouterr().out.startswith("warning: no GPU telemetry from here on: NVMLError")
    assert card_uuid(torch.device("cuda")).startswith("GPU-")
