"""Update rules against plain float64 arithmetic on one matrix at a time."""

import pytest
import torch
from torch import Tensor

from nanochat.optimizer.updates import NORMUON_BETA2, POLAR_COEFFICIENTS, UpdateKernels, neuron_dim, orthogonal_factor


def zero_dim(number: float) -> Tensor:
    return torch.tensor(number)


def reference_muon(value, grads, lr, momentum, weight_decay):
    """The same rule, written for one float64 matrix with explicit loops over steps and neurons."""
    value, average = value.clone(), torch.zeros_like(value)
    rows, cols = value.shape
    second = torch.zeros(max(rows, cols), dtype=torch.float64)
    for grad in grads:
        average = momentum * average + (1 - momentum) * grad
        direction = (1 - momentum) * grad + momentum * average
        y = direction / (direction.norm() * 1.01 + 1e-7)
        for a, b, c in POLAR_COEFFICIENTS:
            y = a * y + b * (y @ y.T @ y) + c * (y @ y.T @ y @ y.T @ y)
        neurons = y if rows >= cols else y.T
        energy = neurons.square().mean(dim=1)
        second = NORMUON_BETA2 * second + (1 - NORMUON_BETA2) * energy
        evened = torch.stack([neuron / s.sqrt() for neuron, s in zip(neurons, second, strict=True)])
        evened = evened * (neurons.norm() / evened.norm())
        update = evened if rows >= cols else evened.T
        decay = torch.where(update * value >= 0, value, 0.0)
        value = value - lr * (update + weight_decay * decay)
    return value


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_muon_equals_a_float64_reference_matrix_by_matrix(shape):
    torch.manual_seed(1)
    start, grads = torch.randn(3, *shape), torch.randn(4, 3, *shape)
    value, average = start.clone(), torch.zeros_like(start)
    second = torch.zeros_like(start.mean(dim=neuron_dim(*shape), keepdim=True))
    for grad in grads:
        UpdateKernels().muon(
            value,
            None,
            grad,
            average,
            second,
            lr=torch.full((3, 1, 1), 0.02),
            active=torch.ones(3, 1, 1),
            momentum=zero_dim(0.9),
            weight_decay=zero_dim(0.2),
            work_dtype=torch.float32,
        )
    for i in range(3):
        wanted = reference_muon(start[i].double(), grads[:, i].double(), 0.02, 0.9, 0.2)
        torch.testing.assert_close(value[i].double(), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("work_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_the_orthogonal_factor_has_singular_values_near_one_and_the_same_singular_vectors(shape, work_dtype):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    y = orthogonal_factor((x / (1.01 * x.norm(dim=(1, 2), keepdim=True))).to(work_dtype)).float()
    singular_values = torch.linalg.svdvals(y)
    assert singular_values.min() > 0.85
    assert singular_values.max() < 1.15
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    aligned = u.mT @ y @ vh.mT  # diagonal if the singular vectors are kept
    off_diagonal = aligned - torch.diag_embed(aligned.diagonal(dim1=-2, dim2=-1))
    assert off_diagonal.abs().max() < (1e-4 if work_dtype == torch.float32 else 0.05)


def test_the_derived_polynomials_are_the_published_ones():
    """First, second and last of the list in the Polar Express paper, which divides by the margin afterwards."""
    a, b, c = POLAR_COEFFICIENTS[0]
    assert (a * 1.01, b * 1.01**3, c * 1.01**5) == pytest.approx((8.28721, -23.59589, 17.30039), abs=1e-3)
    a, b, c = POLAR_COEFFICIENTS[1]
    assert (a * 1.01, b * 1.01**3, c * 1.01**5) == pytest.approx((4.10706, -2.94785, 0.54484), abs=1e-3)
    assert POLAR_COEFFICIENTS[4] == pytest.approx((2.30065, -1.66890, 0.41881), abs=1e-3)


def test_adamw_equals_torch():
    torch.manual_seed(2)
    start, grads = torch.randn(50), torch.randn(5, 50)
    peer = torch.nn.Parameter(start.clone())
    theirs = torch.optim.AdamW([peer], lr=0.01, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0)
    value, average, square = start.clone(), torch.zeros(50), torch.zeros(50)
    for step, grad in enumerate(grads, start=1):
        peer.grad = grad.clone()
        theirs.step()
        UpdateKernels().adamw(
            value,
            None,
            grad,
            average,
            square,
            lr=zero_dim(0.01),
            active=zero_dim(1.0),
            betas=(zero_dim(0.8), zero_dim(0.95)),
            biases=(zero_dim(1 - 0.8**step), zero_dim(1 - 0.95**step)),
        )
    torch.testing.assert_close(value, peer.detach(), rtol=1e-6, atol=1e-6)
