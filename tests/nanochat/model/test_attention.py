"""Windowed causal attention against a naive masked float64 reference; rotary embedding by its laws."""

import math

import pytest
import torch
from torch import Tensor

from nanochat.config import ConfigError
from nanochat.model.attention import attend, resolve_backend, rotary_tables, rotate, window_mask

CPU = torch.device("cpu")


def _naive(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Query i sees keys i - window to i; (B, T, H, K)."""
    out = torch.zeros_like(q)
    for i in range(q.shape[1]):
        first = max(0, i - window)
        scores = torch.einsum("bhk,bjhk->bhj", q[:, i], k[:, first : i + 1]) / math.sqrt(q.shape[3])
        out[:, i] = torch.einsum("bhj,bjhk->bhk", scores.softmax(-1), v[:, first : i + 1])
    return out


@pytest.mark.parametrize("window", [1, 3, 8, 15, 16, 100])
def test_attention_and_its_gradients_equal_the_naive_reference(window: int):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 16, 3, 8, requires_grad=True) for _ in range(3)]
    exact_inputs = [t.detach().double().requires_grad_() for t in inputs]
    out = attend(inputs[0], inputs[1], inputs[2], window, "sdpa")
    exact = _naive(exact_inputs[0], exact_inputs[1], exact_inputs[2], window)
    weight = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out * weight).sum().backward()
    (exact * weight.double()).sum().backward()
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(inputs, exact_inputs, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)


def test_a_window_counts_the_tokens_before_the_own_position():
    assert window_mask(4, 1, CPU).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_rotation_keeps_the_length_of_every_vector():
    torch.manual_seed(1)
    x = torch.randn(2, 32, 3, 16)
    cos, sin = rotary_tables(32, 16, CPU, torch.float32)
    turned = rotate(x, cos, sin)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, 0], x[:, 0])
    assert not torch.allclose(turned[:, 1], x[:, 1])


def test_a_rotated_product_depends_on_the_distance_alone():
    torch.manual_seed(2)
    q, k = (torch.randn(16).expand(1, 32, 1, 16) for _ in range(2))
    cos, sin = rotary_tables(32, 16, CPU, torch.float32)
    turned_q, turned_k = rotate(q, cos, sin)[0, :, 0], rotate(k, cos, sin)[0, :, 0]
    products = turned_q @ turned_k.t()  # (T, T)
    for distance in (0, 1, 7):
        diagonal = products.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)


def test_the_first_pair_of_channels_turns_by_one_radian_a_position():
    cos, sin = rotary_tables(3, 8, CPU, torch.float32)
    assert cos.shape == sin.shape == (1, 3, 1, 4)
    assert cos[0, 2, 0, 0].item() == pytest.approx(math.cos(2))
    assert sin[0, 2, 0, 3].item() == pytest.approx(math.sin(2 * 10_000 ** (-3 / 4)))


def test_the_backend_follows_the_device_unless_it_is_named():
    gpu = torch.device("cuda")
    assert resolve_backend("auto", CPU, 64) == "sdpa"
    assert resolve_backend("auto", gpu, 64) == resolve_backend("flash", gpu, 64) == "flash"
    assert resolve_backend("auto", gpu, 20) == resolve_backend("auto", gpu, 264) == "sdpa"
    assert resolve_backend("sdpa", gpu, 64) == "sdpa"


@pytest.mark.parametrize(("device", "head_dim"), [("cpu", 64), ("cuda", 20), ("cuda", 264)])
def test_a_flash_kernel_that_cannot_be_is_refused(device: str, head_dim: int):
    with pytest.raises(ConfigError, match=f"this is a {device} and head_dim is {head_dim}: take auto"):
        resolve_backend("flash", torch.device(device), head_dim)
