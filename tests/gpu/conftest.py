"""Tests that need an NVIDIA GPU are skipped where torch sees none."""

import pytest
import torch


@pytest.fixture(autouse=True)
def gpu() -> torch.device:
    """The GPU; free memory that a kernel may be given and not write reads as NaN."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    device = torch.device("cuda")
    torch.full((2**28,), float("nan"), device=device)  # goes back to torch's allocator, which hands it out again
    return device
