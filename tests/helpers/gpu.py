"""A GPU that is busy for as long as a test needs."""

import torch


def keep_gpu_busy(cycles: int) -> None:
    """Launches a kernel on the current stream that only waits; a billion cycles take about half a second."""
    torch.cuda._sleep(cycles)  # pyright: ignore[reportPrivateUsage] - torch's tests have no public one either
