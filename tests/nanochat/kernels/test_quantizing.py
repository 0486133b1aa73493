"""What e4m3 numbers and their scales keep of a tensor."""

import pytest
import torch

from nanochat.kernels.quantizing import E4M3_MAX, QuantizedWeight, quantize


def test_a_scale_makes_the_largest_value_the_largest_fp8_number_and_zeros_stay_zeros():
    x = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    values, scale = quantize(x, (1,))
    assert values.float().tolist() == [[224, -448], [0, 0]]
    assert scale[0].item() == pytest.approx(2 / E4M3_MAX)
    assert (values.float() * scale)[1].tolist() == [0, 0]


def test_rowwise_scales_save_a_small_row_beside_a_large_one_and_tensorwise_scales_do_not():
    x = torch.stack((torch.full((8,), 1e-6), torch.full((8,), 1e3)))
    by_row, row_scale = quantize(x, (1,))
    by_tensor, scale = quantize(x, (0, 1))
    assert (by_row.float() * row_scale)[0, 0].item() == pytest.approx(1e-6, rel=0.05)
    assert (by_tensor.float() * scale)[0, 0].item() == 0


@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_experts_of_one_weight_have_scales_of_their_own_in_both_recipes(recipe: str):
    torch.manual_seed(0)
    weight = torch.randn(4, 128, 96) * torch.tensor([1.0, 0.01, 30.0, 1e-5]).view(-1, 1, 1)
    quantized = QuantizedWeight(weight, recipe)
    quantized.refresh(weight)
    for values, scale, exact in (
        (quantized.q, quantized.q_scale, weight),
        (quantized.qt, quantized.qt_scale, weight.transpose(1, 2)),
    ):
        noise = values.float() * scale[:, :, None] - exact  # (E, M, K)
        assert (noise.norm(dim=(1, 2)) < 0.04 * exact.norm(dim=(1, 2))).all()
