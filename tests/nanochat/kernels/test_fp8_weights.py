"""FP8 copies of weights for Hopper: every value in its place, under a factor that leaves none out of range."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat.kernels.fp8_weights import Fp8Weight, normed_scale, row_quantized
from nanochat.kernels.quantizing import E4M3_MAX

# Numbers that e4m3 holds: the interpreter rounds others differently from a GPU.
EXACT = torch.tensor([0.0, 1.0, -2.0, 3.0, 7.0, -0.5, 14.0, 448.0])


def _drawn(*shape: int) -> torch.Tensor:
    return EXACT[torch.randint(0, len(EXACT), shape)].to(torch.bfloat16)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("shapes", [[(70, 33)], [(64, 64)], [(3, 128, 96)], [(40, 48), (24, 48), (1, 48)]], ids=str)
def test_both_copies_hold_every_value_in_its_place(shapes: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    weights = [_drawn(*shape) for shape in shapes]
    weights[-1].view(-1)[0] = 448.0
    whole = torch.cat([w.view(-1, *w.shape[-2:]) for w in weights], dim=1).float()
    copies = Fp8Weight(weights, transposed=True)
    assert copies.qt is not None
    for copy in (copies.q, copies.qt):
        copy.view(torch.uint8).fill_(0x7F)  # NaN: what is not written shows
    copies.refresh(weights)
    assert torch.equal(copies.q.float() * copies.factor, whole)
    assert torch.equal(copies.qt.float() * copies.factor, whole.mT)
    longest = whole.square().sum(-1).max().sqrt().item()
    assert copies.product_bound(2.0).item() == pytest.approx(2.0 * longest * 1.1)


@pytest.mark.usefixtures("interpreted")
def test_a_second_refresh_forgets_the_first() -> None:
    weight = _drawn(8, 16)
    weight[0, 0] = 448.0
    copies = Fp8Weight([weight], transposed=False)
    copies.refresh([weight])
    copies.refresh([weight / 64])
    assert torch.equal(copies.q.float() * copies.factor, weight.float()[None] / 64)
    copies.refresh([torch.zeros_like(weight)])
    assert (copies.q.float() * copies.factor == 0).all()


@given(st.integers(1, 10**5))
def test_what_rmsnorm_leaves_stays_in_range_and_uses_half_of_it(width: int) -> None:
    largest = math.sqrt(width) * normed_scale(width)
    assert E4M3_MAX / 2 < largest <= E4M3_MAX


def test_each_rows_largest_value_is_the_largest_number_and_rows_of_zeros_stay_zeros() -> None:
    x = torch.randn(5, 32) * torch.tensor([1.0, 1e-9, 1e6, 0.0, 3.0])[:, None]
    q, scale = row_quantized(x)
    assert torch.isfinite(scale).all()
    assert q.float().abs().amax(1).tolist() == [448.0, 448.0, 448.0, 0.0, 448.0]
    assert torch.allclose(q.float() * scale[:, None], x, rtol=2**-4, atol=0)
