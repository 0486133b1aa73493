"""The optimizer's own kernels move every weight and all state as the written rules do."""

import copy

import pytest
import torch
from torch import Tensor

from nanochat.optimizer.updates import UpdateKernels, neuron_dim

pytestmark = pytest.mark.usefixtures("interpreted")
PLAIN, OWN = UpdateKernels(), UpdateKernels.own(by_half=False)


def _close(found: list[Tensor], wanted: list[Tensor]) -> None:
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [(3, 70, 33), (2, 33, 70), (1, 64, 64), (4, 5, 1), (2, 1, 5000)], ids=str)
@pytest.mark.parametrize("is_active", [True, False])
def test_muons_steps(shape: tuple[int, ...], is_active: bool) -> None:
    torch.manual_seed(0)
    value = torch.randn(shape)
    neurons = torch.zeros_like(value.mean(neuron_dim(*shape[1:]), keepdim=True))
    state = [value, torch.full(shape, float("nan")), torch.randn(shape), neurons]
    both = [state, copy.deepcopy(state)]
    active = torch.ones(shape[0], 1, 1) if is_active else torch.tensor([1.0, 0.0] * 4)[1 : 1 + shape[0]].view(-1, 1, 1)
    for _ in range(3):
        grad = torch.randn(shape)
        for kernels, (value, sent, momentum, second) in zip((PLAIN, OWN), both, strict=True):
            kernels.muon(
                value,
                sent,
                grad,
                momentum,
                second,
                lr=torch.rand(shape[0], 1, 1, generator=torch.Generator().manual_seed(1)),
                active=active,
                momentum=torch.tensor(0.9),
                weight_decay=torch.tensor(0.2),
                work_dtype=torch.float32,
            )
    _close(both[1], both[0])
    assert torch.equal(both[1][0], both[1][1]), "what is sent is the value"


def test_a_step_that_is_undone_moves_nothing_whatever_the_gradient_is() -> None:
    torch.manual_seed(1)
    before = [torch.randn(2, 6, 4) for _ in range(2)] + [torch.rand(2, 6, 1)]
    value, momentum, second = (t.clone() for t in before)
    OWN.muon(
        value,
        None,
        torch.full((2, 6, 4), float("nan")),
        momentum,
        second,
        lr=torch.ones(2, 1, 1),
        active=torch.zeros(2, 1, 1),
        momentum=torch.tensor(0.9),
        weight_decay=torch.tensor(0.2),
        work_dtype=torch.float32,
    )
    assert all(torch.equal(a, b) for a, b in zip((value, momentum, second), before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_active", [1.0, 0.0])
@pytest.mark.parametrize("size", [1, 2048, 5000])
def test_adams_steps(size: int, is_active: float, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    sent = torch.full((size,), float("nan"))
    state = [torch.randn(size).to(dtype), sent, torch.randn(size), torch.rand(size)]
    both = [state, copy.deepcopy(state)]
    grad = torch.randn(size) if is_active else torch.full((size,), float("inf"))
    for kernels, (value, sent, average, square) in zip((PLAIN, OWN), both, strict=True):
        kernels.adamw(
            value,
            sent,
            grad,
            average,
            square,
            lr=torch.tensor(0.01),
            active=torch.tensor(is_active),
            betas=(torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.95, dtype=torch.float64)),
            biases=(torch.tensor(0.2), torch.tensor(0.05)),
        )
    tolerance = 2e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(both[1][0], both[0][0], rtol=tolerance, atol=tolerance)
    _close(both[1][2:], both[0][2:])
    torch.testing.assert_close(both[1][1], both[1][0].float(), rtol=1e-2 if dtype == torch.bfloat16 else 0, atol=0)


@pytest.mark.parametrize("shape", [(1, 70000), (3, 40, 20), (2, 1), (2, 0)], ids=str)
def test_extents(shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    grads = torch.randn(shape) - 1
    largest, square = OWN.extents(grads)
    wanted = grads.abs().flatten(1)
    torch.testing.assert_close(largest, wanted.amax(1) if grads.numel() else torch.zeros(shape[0]))
    torch.testing.assert_close(square, wanted.square().sum(1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_seen_wherever_it_is(bad: float) -> None:
    for place in (0, 16383, 16384, 19999):
        grads = torch.randn(2, 20000)
        grads[1, place] = bad
        largest, _ = OWN.extents(grads)
        assert largest.isfinite().tolist() == [True, False]
