"""Values in 8 bits: e4m3 numbers with the fp32 factor that restores them, and an expert weight's copies in that form.

Legend: E experts, K inner and M outer size of a product.
"""

import torch
from torch import Tensor, nn

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
E4M3_MAX = 448.0


def quantize(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """`x` as e4m3 and the fp32 factor that restores it, shared over `dims` (kept with size 1).

    Zeros stay zeros: the scale of an all-zero slice is tiny, not zero.
    """
    scale = x.abs().amax(dim=dims, keepdim=True).float().clamp(min=1e-12) / E4M3_MAX
    return (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), scale


class QuantizedWeight(nn.Module):
    """The two FP8 copies of an expert weight (E, M, K): as the forward product reads it, and transposed for dX.

    Hopper's FP8 product reads both operands along their inner dimension, so there is a second copy. The tensors are
    allocated once and refreshed in place, so that a compiled block keeps its inputs.
    """

    def __init__(self, weight: Tensor, recipe: str) -> None:
        super().__init__()
        num_experts, m, k = weight.shape
        self._recipe = recipe
        self.q: Tensor
        self.q_scale: Tensor
        self.qt: Tensor
        self.qt_scale: Tensor
        new = weight.new_empty
        self.register_buffer("q", new(num_experts, m, k, dtype=E4M3), persistent=False)
        self.register_buffer("q_scale", new(num_experts, m, dtype=torch.float32), persistent=False)
        self.register_buffer("qt", new(num_experts, k, m, dtype=E4M3), persistent=False)
        self.register_buffer("qt_scale", new(num_experts, k, dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def refresh(self, weight: Tensor) -> None:
        """Quantises `weight` (E, M, K) again; call it after every optimizer step."""
        transposed = weight.transpose(1, 2)
        over = (2,) if self._recipe == "rowwise" else (1, 2)
        for source, q, q_scale in ((weight, self.q, self.q_scale), (transposed, self.qt, self.qt_scale)):
            values, scale = quantize(source, over)
            q.copy_(values)
            q_scale.copy_(scale.squeeze(2).expand_as(q_scale))
