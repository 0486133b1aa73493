"""What tests on a GPU share: exact attention, how near a result is to an exact one, and a GPU that is busy."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def sqnr_db(actual: Tensor, exact: Tensor) -> float:
    """Signal over quantization noise, in dB."""
    noise = (actual.double() - exact.double()).norm().item()
    return 20 * math.log10(exact.double().norm().item() / noise) if noise > 0 else math.inf


def check_gradients(ours: Sequence[Tensor], exact: Sequence[Tensor], least_db: float) -> None:
    """Each of our leaves has a gradient this near to the exact one."""
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert sqnr_db(mine.grad, theirs.grad) > least_db


def exact_window_attention(inputs: Sequence[Tensor], window: int) -> tuple[Tensor, list[Tensor]]:
    """Causal attention of q, k and v (B, S, H, D) over the last `window` tokens in float64, and the leaves it is of."""
    leaves = [t.detach().double().requires_grad_() for t in inputs]
    q, k, v = (t.transpose(1, 2) for t in leaves)  # (B, H, S, D)
    positions = torch.arange(q.shape[2], device=q.device)
    distance = positions[:, None] - positions
    scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).masked_fill(
        (distance < 0) | (distance > window), -math.inf
    )
    return (scores.softmax(-1) @ v).transpose(1, 2), leaves


def keep_gpu_busy(cycles: int) -> None:
    """Launches a kernel on the current stream that only waits; a billion cycles take about half a second."""
    torch.cuda._sleep(cycles)  # pyright: ignore[reportPrivateUsage] - torch's tests have no public one either
