"""Tests that need an NVIDIA GPU are skipped where torch sees none."""

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before any fixture, because fixtures here use the GPU too."""
    if not torch.cuda.is_available():
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="torch sees no GPU"))


@pytest.fixture(autouse=True)
def gpu() -> torch.device:
    """The GPU; free memory that a kernel can be given and not write reads as NaN."""
    device = torch.device("cuda")
    torch.full((2**28,), float("nan"), device=device)  # goes back to torch's allocator, which hands it out again
    return device
