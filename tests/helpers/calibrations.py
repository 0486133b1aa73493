"""A calibration that a test invents."""

import dataclasses
from typing import Any

from sweeps.records.documents import Calibration, utc_now


def calibration(**changes: Any) -> Calibration:
    plausible = Calibration(
        experiment="cal",
        leg="static",
        measured_utc=utc_now(),
        run_sd=0.001,
        floor_sd=0.002,
        num_blocks=4,
        window_steps=10,
        num_workers=2,
        host="h",
        device_name="NVIDIA H100",
        versions={"torch": "2.13"},
    )
    return dataclasses.replace(plausible, **changes)
