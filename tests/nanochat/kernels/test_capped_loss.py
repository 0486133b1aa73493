"""The fused loss is the plain formula, and leaves the logits' gradients where the logits were."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.kernels.capped_loss import capped_loss_, head_loss

CAP = 15.0
pytestmark = pytest.mark.usefixtures("interpreted")


def _exact(logits: Tensor, targets: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Losses and logits' gradients of every row by itself, in float64."""
    logits = logits.double().requires_grad_()
    capped = CAP * torch.tanh(logits[:, :vocab_size] / CAP)
    losses = F.cross_entropy(capped, targets, ignore_index=-1, reduction="none")
    losses.sum().backward()
    assert logits.grad is not None
    return losses.detach(), logits.grad


@pytest.mark.parametrize(("vocab_size", "num_columns"), [(50, 64), (128, 128), (2048, 2048), (2100, 2112), (1, 64)])
def test_losses_and_gradients_are_those_of_the_formula_in_float64(vocab_size: int, num_columns: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(7, num_columns) * 20
    logits[0, 0], logits[1, 0] = 1e4, -1e4  # far beyond the cap
    targets = torch.randint(0, vocab_size, (7,))
    targets[3] = -1
    losses, grads = _exact(logits, targets, vocab_size)
    written = logits.clone()
    assert torch.allclose(capped_loss_(written, targets, vocab_size, CAP, True).double(), losses, atol=1e-5)
    assert torch.allclose(written.double(), grads, atol=1e-6)
    assert (written[3] == 0).all(), "an ignored position teaches nothing"
    assert (written[:, vocab_size:] == 0).all(), "columns that pad the vocabulary get no gradient"


def test_without_a_gradient_the_logits_stay_as_they_were() -> None:
    logits = torch.randn(3, 64)
    before = logits.clone()
    capped_loss_(logits, torch.tensor([1, -1, 63]), 64, CAP, False)
    assert torch.equal(logits, before)


def test_a_logit_that_is_not_finite_reaches_the_loss() -> None:
    logits = torch.zeros(1, 64)
    logits[0, 5] = float("nan")
    assert capped_loss_(logits, torch.tensor([1]), 64, CAP, True).isnan().all()


def test_no_rows_are_no_work() -> None:
    assert capped_loss_(torch.empty(0, 64), torch.empty(0, dtype=torch.int64), 64, CAP, True).shape == (0,)


def test_what_comes_from_above_scales_each_rows_gradients() -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(6, 16, requires_grad=True), torch.randn(64, 16, requires_grad=True)
    targets, above = torch.randint(0, 60, (6,)), torch.rand(6)
    head_loss(x, weight, targets, 60, CAP, True).backward(above)
    x64, weight64 = (t.detach().double().requires_grad_() for t in (x, weight))
    capped = CAP * torch.tanh((x64 @ weight64.t())[:, :60] / CAP)
    F.cross_entropy(capped, targets, reduction="none").backward(above.double())
    for ours, exact in ((x.grad, x64.grad), (weight.grad, weight64.grad)):
        assert ours is not None
        assert exact is not None
        assert torch.allclose(ours.double(), exact, atol=1e-5)
