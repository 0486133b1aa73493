"""Queries, keys and values in one pass are what the plain formula gives, and so are their gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.kernels.rotary import head_problem, queries_keys_values, rotate_and_norm_backward
from nanochat.model.attention import rotary_tables, rotate


def _plain(x: Tensor, weights: list[Tensor], cos: Tensor, sin: Tensor, heads: int) -> tuple[Tensor, ...]:
    q, k, v = ((x @ w.t()).view(*x.shape[:2], heads, -1) for w in weights)
    eps = torch.finfo(torch.float32).eps
    q, k = (F.rms_norm(rotate(t, cos, sin), (t.shape[-1],), eps=eps) for t in (q, k))
    return q, k, v


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("batch", "seq_len", "heads", "head_dim"), [(2, 5, 3, 8), (1, 1, 1, 2), (3, 4, 4, 16)])
def test_outputs_and_gradients_are_those_of_the_formula_in_float64(
    batch: int, seq_len: int, heads: int, head_dim: int
) -> None:
    torch.manual_seed(0)
    width = heads * head_dim
    x = torch.randn(batch, seq_len, width, requires_grad=True)
    weights = [torch.randn(width, width, requires_grad=True) for _ in range(3)]
    cos, sin = rotary_tables(seq_len, head_dim, torch.device("cpu"), torch.float32)
    ours = queries_keys_values(x, (weights[0], weights[1], weights[2]), cos, sin, heads, None)
    above = [torch.randn_like(out) for out in ours]
    torch.autograd.backward(ours, above)
    exact_leaves = [leaf.detach().double().requires_grad_() for leaf in (x, *weights)]
    exact = _plain(exact_leaves[0], exact_leaves[1:], cos.double(), sin.double(), heads)
    torch.autograd.backward(exact, [a.double() for a in above])
    for mine, theirs in zip(ours, exact, strict=True):
        assert torch.allclose(mine.double(), theirs, atol=1e-5)
    for mine, theirs in zip((x, *weights), exact_leaves, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert (mine.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm() + 1e-6


@pytest.mark.usefixtures("interpreted")
def test_in_fp8_each_tokens_largest_gradient_is_the_largest_number() -> None:
    torch.manual_seed(1)
    dq, dk, dv, q, k = (torch.randn(2, 3, 2, 4) for _ in range(5))
    dq[0, 0] = dk[0, 0] = dv[0, 0] = 0
    tables = (torch.rand(3, 2), torch.rand(3, 2))
    out, out8, scale = rotate_and_norm_backward(dq, dk, dv, q, k, torch.rand(6, 4), *tables, True)
    assert out8.float().abs().amax(1).tolist() == [0.0, *[448.0] * 5]
    assert torch.allclose(scale * 448, out.abs().amax(1).clamp(min=1e-30)), "tests/gpu/ checks the values"


def test_heads_that_are_no_power_of_two_are_left_to_torch() -> None:
    assert head_problem(64) is None
    assert head_problem(96) == "head_dim 96 is not a power of 2"
