"""A row gets its token's gradient times its weight, the weight the product of both; empty rows get zeros."""

import pytest
import torch

from nanochat.kernels.combining import combine_backward


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("in_fp8", [False, True])
@pytest.mark.parametrize(("num_tokens", "num_rows", "width"), [(5, 12, 40), (1, 1, 1), (3, 0, 8), (4, 9, 64)])
def test_rows_and_weights_get_their_gradients(num_tokens: int, num_rows: int, width: int, in_fp8: bool) -> None:
    torch.manual_seed(0)
    out_grad, y = torch.randn(num_tokens, width), torch.randn(num_rows, width)
    weight, token = torch.rand(num_rows), torch.randint(0, num_tokens + 1, (num_rows,))
    dy, dy8, scale, dot = combine_backward(out_grad, y, weight, token, in_fp8)
    of_token = torch.cat([out_grad, torch.zeros(1, width)])[token]
    assert torch.allclose(dy, of_token * weight[:, None])
    assert torch.allclose(dot, (of_token * y).sum(1), atol=1e-5)
    assert (dy[token == num_tokens] == 0).all()
    if in_fp8:
        assert torch.allclose(scale * 448, dy.abs().amax(1).clamp(min=1e-30))
        assert torch.equal(dy8.float().sign() * (dy8 != 0), dy.sign() * (dy8 != 0)), "tests/gpu/ checks the values"
    else:
        assert dy8.shape == (0, width)
