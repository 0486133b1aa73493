"""A thread says what the card does, without holding up anyone, and a driver that cannot answer costs one line."""

import math
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config import RunConfig, with_overrides
from nanochat.machine.device import open_device
from nanochat.metering.telemetry import (
    NOTHING,
    THREAD_NAME,
    GpuReading,
    GpuSampler,
    combine,
    driver_readings,
)
from nanochat.recipes import d12_moe
from nanochat.stats import Hooks, StepStats
from nanochat.throttle import reason_names, slowdown
from nanochat.train import train

COOL = GpuReading(1980.0, 400.0, 50.0, 0)
HOT = GpuReading(1200.0, 700.0, 88.0, 4 | 32)


def _source(*readings: GpuReading) -> Callable[[], Generator[GpuReading]]:
    """A card that says this, one each time, and then the last for ever."""

    def read() -> Generator[GpuReading]:
        yield from readings
        while True:
            yield readings[-1]

    return read


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


# Reduction


def test_several_readings_are_the_lowest_clock_the_highest_power_and_heat_and_every_bit():
    assert combine([COOL, HOT, GpuReading(1500.0, 710.0, 60.0, 64)]) == GpuReading(1200.0, 710.0, 88.0, 4 | 32 | 64)


def test_what_one_card_does_not_know_the_others_tell():
    assert combine([GpuReading(None, 300.0, None, None), GpuReading(1000.0, None, None, 1)]) == GpuReading(
        1000.0, 300.0, None, 1
    )
    assert combine([]) == combine([NOTHING, NOTHING]) == NOTHING


numbers = st.none() | st.floats(0, 1e6)
readings = st.builds(GpuReading, numbers, numbers, numbers, st.none() | st.integers(0, 2**53))


@given(readings)
def test_a_reading_survives_the_way_over_the_wire(reading: GpuReading):
    assert GpuReading.from_floats(reading.as_floats()) == reading


# The thread


def test_a_step_is_told_the_worst_of_what_came_since_the_step_before():
    with GpuSampler(_source(COOL, HOT, COOL), interval_s=0.0) as sampler:
        _until(lambda: sampler.num_fresh >= 3)
        assert sampler.take() == combine([COOL, HOT])
        _until(lambda: sampler.num_fresh >= 1)
        assert sampler.take() == COOL


def test_a_step_shorter_than_the_interval_is_told_the_latest_reading():
    with GpuSampler(_source(HOT), interval_s=60.0) as sampler:
        _until(lambda: sampler.take() == HOT)
        assert [sampler.take() for _ in range(3)] == [HOT] * 3


def test_before_the_first_answer_nothing_is_known_and_nobody_waits_for_it():
    may_answer = threading.Event()

    def slow() -> Generator[GpuReading]:
        assert may_answer.wait(20)
        yield COOL

    with GpuSampler(slow) as sampler:
        assert sampler.take() == NOTHING
        may_answer.set()
        _until(lambda: sampler.take() == COOL)


def test_the_thread_ends_and_closes_its_source_when_the_sampler_is_left():
    closed: list[bool] = []

    def source() -> Generator[GpuReading]:
        try:
            while True:
                yield COOL
        finally:
            closed.append(True)

    with GpuSampler(source, interval_s=60.0) as sampler:
        _until(lambda: sampler.take() == COOL)
        assert len(_threads()) == 1
    assert _threads() == []
    assert closed == [True]


def test_a_driver_that_fails_on_the_way_takes_its_numbers_back_and_says_so_once(capsys: pytest.CaptureFixture[str]):
    def source() -> Generator[GpuReading]:
        yield HOT
        raise RuntimeError("the GPU is lost")

    with GpuSampler(source, interval_s=0.0) as sampler:
        _until(lambda: not _threads())
        assert [sampler.take(), sampler.take()] == [NOTHING, NOTHING]
    assert capsys.readouterr().out == "warning: no GPU telemetry from here on: RuntimeError: the GPU is lost\n"


def test_a_machine_without_such_a_card_costs_one_line(capsys: pytest.CaptureFixture[str]):
    with GpuSampler(partial(driver_readings, "GPU-00000000-0000-0000-0000-000000000000")) as sampler:
        _until(lambda: not _threads())
        assert sampler.take() == NOTHING
    printed = capsys.readouterr().out
    assert printed.startswith("warning: no GPU telemetry from here on: NVMLError")
    assert printed.count("\n") == 1


def test_a_card_or_a_driver_that_lacks_a_number_tells_the_others_and_is_let_go(monkeypatch: pytest.MonkeyPatch):
    pynvml = pytest.importorskip("pynvml")
    asked: list[Any] = []

    def refuse(code: int) -> Callable[..., int]:
        def ask(*_: Any) -> int:
            raise pynvml.NVMLError(code)

        return ask

    answers: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: asked.append("init"),
        "nvmlShutdown": lambda: asked.append("shutdown"),
        "nvmlDeviceGetHandleByUUID": lambda uuid: f"handle of {uuid}",
        "nvmlDeviceGetClockInfo": lambda card, kind: asked.append((card, kind)) or 1980,
        "nvmlDeviceGetPowerUsage": refuse(pynvml.NVML_ERROR_NOT_SUPPORTED),
        "nvmlDeviceGetTemperature": lambda card, sensor: 55,
        "nvmlDeviceGetCurrentClocksEventReasons": refuse(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    readings = driver_readings("GPU-1")
    assert next(readings) == GpuReading(1980, None, 55, None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", lambda card: 412_345)
    assert next(readings).gpu_power_w == 412.345
    readings.close()
    assert asked == ["init", *[("handle of GPU-1", pynvml.NVML_CLOCK_SM)] * 2, "shutdown"]


def test_a_cpu_has_no_thread_and_no_numbers():
    with GpuSampler.of(open_device(RunConfig(device="cpu"), uses_fp8=False)) as sampler:
        assert _threads() == []
        assert sampler.take() == NOTHING
        assert all(math.isnan(number) for number in sampler.take().as_floats())


# In a run


def _run(folder: Path, on_step: Callable[[StepStats], None]) -> None:
    """Two steps of two layers of width 64 on a CPU."""
    sizes = {
        "model.depth": 2,
        "model.aspect_ratio": 32,
        "model.head_dim": 16,
        "model.seq_len": 32,
        "model.vocab_size": 300,
        "compile.mode": "none",
        "data.source": str(folder),
        "data.device_batch_size": 2,
        "data.total_batch_tokens": 64,
        "run.device": "cpu",
    }
    hooks = Hooks(on_step=on_step)
    train(with_overrides(d12_moe(num_steps=2), sizes), hooks)


@pytest.fixture
def hot_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device has a card next to it that is hot from the first step on."""

    class HotFromTheStart(GpuSampler):
        def take(self) -> GpuReading:
            return combine([super().take(), HOT])

    monkeypatch.setattr(GpuSampler, "of", lambda device: HotFromTheStart(_source(HOT)))


@pytest.mark.usefixtures("hot_card")
def test_a_runs_rows_hold_the_readings_and_the_thread_ends_with_the_run(small_text: Path):
    rows: list[StepStats] = []
    _run(small_text, rows.append)
    assert _threads() == []
    for row in rows:
        seen = GpuReading(row.gpu_clock_mhz, row.gpu_power_w, row.gpu_temperature_c, row.gpu_throttle_bits)
        assert seen == HOT
        assert row.flags == ("throttled", "warmup")


@pytest.mark.usefixtures("hot_card")
def test_the_thread_ends_with_a_run_that_fails(small_text: Path):
    def fail(row: StepStats) -> None:
        assert len(_threads()) == 1
        raise OSError("storage is gone")

    with pytest.raises(OSError, match="storage is gone"):
        _run(small_text, fail)
    assert _threads() == []


def test_a_run_on_a_cpu_has_no_readings(small_text: Path):
    rows: list[StepStats] = []
    _run(small_text, rows.append)
    assert {(row.gpu_clock_mhz, row.gpu_power_w, row.gpu_throttle_bits) for row in rows} == {(None,) * 3}


# Bits


def test_heat_and_hardware_slow_a_card_down_a_power_cap_does_not():
    assert [slowdown(bits) for bits in (None, 0, 1, 4, 8, 32, 64, 128, 4 | 32)] == [0, 0, 0, 0, 8, 32, 64, 128, 32]


def test_bits_have_the_drivers_names():
    pynvml = pytest.importorskip("pynvml")
    bits = {
        "gpu idle": pynvml.nvmlClocksEventReasonGpuIdle,
        "sw power cap": pynvml.nvmlClocksEventReasonSwPowerCap,
        "hw slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown,
        "sw thermal slowdown": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
        "hw thermal slowdown": pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        "hw power brake slowdown": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
    }
    assert reason_names(sum(bits.values())) == tuple(bits)
    assert reason_names(0) == ()
    assert reason_names(0x20000 | 4) == ("sw power cap", "0x20000")
