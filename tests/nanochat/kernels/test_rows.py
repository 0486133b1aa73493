"""Passes over rows give what torch's operators give, both ways."""

import pytest
import torch
import torch.nn.functional as F

from nanochat.kernels.rows import gather_sum, mix_and_norm

pytestmark = pytest.mark.usefixtures("interpreted")


@pytest.mark.parametrize("has_weights", [False, True])
@pytest.mark.parametrize(
    ("num_tokens", "num_rows", "k", "width"), [(5, 9, 2, 40), (1, 1, 1, 1), (0, 3, 2, 8), (7, 4, 3, 64)]
)
def test_rows_are_weighted_and_added_up(num_tokens: int, num_rows: int, k: int, width: int, has_weights: bool) -> None:
    torch.manual_seed(0)
    y, rows = torch.randn(num_rows, width), torch.randint(0, num_rows + 1, (num_tokens, k))
    weights = torch.rand(num_tokens, k) if has_weights else None
    padded = torch.cat([y, torch.zeros(1, width)])[rows]
    wanted = padded.sum(1) if weights is None else (padded * weights[:, :, None]).sum(1)
    torch.testing.assert_close(gather_sum(y, rows, weights), wanted)


def test_what_lies_behind_the_last_row_is_never_read() -> None:
    y = torch.full((4, 8), float("nan"))
    assert (gather_sum(y, torch.full((3, 2), 4), torch.ones(3, 2)) == 0).all()


@pytest.mark.parametrize("has_scales", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 40), (1, 1), (4, 128)], ids=str)
def test_mixing_and_norming_both_ways(shape: tuple[int, ...], has_scales: bool) -> None:
    torch.manual_seed(1)
    inputs = [torch.randn(shape).requires_grad_() for _ in range(2)]
    scales = torch.tensor([0.7, -0.2], requires_grad=True) if has_scales else None
    leaves = [*inputs, *([] if scales is None else [scales])]
    above = torch.randn(2, *shape)
    ours = mix_and_norm(inputs[0], inputs[1], scales)
    mixed = inputs[0] + inputs[1] if scales is None else scales[0] * inputs[0] + scales[1] * inputs[1]
    plain = mixed, F.rms_norm(mixed, (shape[-1],))
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs)
    found, wanted = (
        torch.autograd.grad((out[0] * above[0]).sum() + (out[1] * above[1]).sum(), leaves) for out in (ours, plain)
    )
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
