"""What a rank's GPU did during the step: clock, power, heat and brakes, asked of the driver once a second.

A thread of its own asks (NVML's calls release the interpreter), so the training thread never waits for the driver; it
takes what has come since it last looked. Steps shorter than a second share a reading. The card is found by its UUID,
which is the same card however CUDA_VISIBLE_DEVICES renumbers them.

Telemetry explains times and decides nothing, so a driver that cannot answer costs one line in the log, never the run.
"""

import math
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import torch

from nanochat.machine.device import Device

INTERVAL_S = 1.0
_JOIN_S = 5.0  # a driver that hangs for longer keeps its thread, which does not keep the process
THREAD_NAME = "gpu-telemetry"


@dataclass(frozen=True)
class GpuReading:
    """Numbers of one card at one moment, or of several; None: not known."""

    gpu_clock_mhz: float | None = None  # of the multiprocessors; the lowest of several
    gpu_power_w: float | None = None  # the highest of several
    gpu_temperature_c: float | None = None  # the highest of several
    gpu_throttle_bits: int | None = None  # see `throttle`; those set in any of several

    def as_floats(self) -> list[float]:
        """Flat, for a collective; `from_floats` is the inverse."""
        numbers = (self.gpu_clock_mhz, self.gpu_power_w, self.gpu_temperature_c, self.gpu_throttle_bits)
        return [math.nan if number is None else float(number) for number in numbers]

    @staticmethod
    def from_floats(values: Iterable[float]) -> "GpuReading":
        """The inverse of `as_floats`; from an iterator it takes its own numbers and leaves the rest."""
        mine = islice(values, len(fields(GpuReading)))
        clock, power, temperature, bits = (None if math.isnan(value) else value for value in mine)
        return GpuReading(clock, power, temperature, None if bits is None else int(bits))


NOTHING = GpuReading()


def combine(readings: Iterable[GpuReading]) -> GpuReading:
    """The worst of several readings, over time or over ranks; what is unknown in some of them does not count."""
    every = list(readings)
    bits = [r.gpu_throttle_bits for r in every if r.gpu_throttle_bits is not None]
    all_bits = 0
    for one in bits:
        all_bits |= one
    return GpuReading(
        min((r.gpu_clock_mhz for r in every if r.gpu_clock_mhz is not None), default=None),
        max((r.gpu_power_w for r in every if r.gpu_power_w is not None), default=None),
        max((r.gpu_temperature_c for r in every if r.gpu_temperature_c is not None), default=None),
        all_bits if bits else None,
    )


def card_uuid(device: torch.device) -> str:
    """The driver's name of a GPU."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def driver_readings(uuid: str) -> Generator[GpuReading]:
    """The card's present state, each time it is asked for. Raises pynvml.NVMLError where the driver cannot tell."""
    import pynvml  # pyright: ignore[reportMissingTypeStubs]

    # Not every card has every number, and not every driver every question.
    unknown: tuple[type[Exception], ...] = (
        pynvml.NVMLError_NotSupported,  # pyright: ignore[reportAttributeAccessIssue]
        pynvml.NVMLError_FunctionNotFound,  # pyright: ignore[reportAttributeAccessIssue]
    )

    def if_known(ask: Callable[..., int], *args: Any) -> int | None:
        try:
            return ask(*args)
        except unknown:
            return None

    pynvml.nvmlInit()
    try:
        card = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        while True:
            power_mw = if_known(pynvml.nvmlDeviceGetPowerUsage, card)
            yield GpuReading(
                if_known(pynvml.nvmlDeviceGetClockInfo, card, pynvml.NVML_CLOCK_SM),
                None if power_mw is None else power_mw / 1e3,
                if_known(pynvml.nvmlDeviceGetTemperature, card, pynvml.NVML_TEMPERATURE_GPU),
                if_known(pynvml.nvmlDeviceGetCurrentClocksEventReasons, card),
            )
    finally:
        pynvml.nvmlShutdown()


class GpuSampler:
    """Asks while it is entered; without a source, as on a CPU, it knows nothing and starts no thread."""

    def __init__(self, source: Callable[[], Generator[GpuReading]] | None, interval_s: float = INTERVAL_S) -> None:
        self._source, self._interval_s = source, interval_s
        self._lock, self._leaving = threading.Lock(), threading.Event()
        self._fresh: list[GpuReading] = []
        self._latest = NOTHING
        self._thread = threading.Thread(target=self._sample, name=THREAD_NAME, daemon=True) if source else None

    @staticmethod
    def of(device: Device) -> "GpuSampler":
        """The sampler of a rank's own card."""
        if not device.is_cuda:
            return GpuSampler(None)
        uuid = card_uuid(device.torch_device)
        return GpuSampler(lambda: driver_readings(uuid))

    def __enter__(self) -> "GpuSampler":
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    @property
    def num_fresh(self) -> int:
        """Readings since the last `take`."""
        with self._lock:
            return len(self._fresh)

    def take(self) -> GpuReading:
        """The worst of what came since the last call, or the latest known if nothing did."""
        with self._lock:
            if self._fresh:
                self._latest = combine(self._fresh)
                self._fresh.clear()
            return self._latest

    def _sample(self) -> None:
        assert self._source is not None
        try:
            with closing(self._source()) as readings:
                for reading in readings:
                    with self._lock:
                        self._fresh.append(reading)
                    if self._leaving.wait(self._interval_s):
                        return
        except Exception as error:  # whatever is wrong with the driver, the run is not
            with self._lock:
                self._fresh.clear()
                self._latest = NOTHING
            print(f"warning: no GPU telemetry from here on: {type(error).__name__}: {error}", flush=True)
