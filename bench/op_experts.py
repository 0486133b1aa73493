# pyright: basic
# Many of torch's operators are typed in part only.
"""The experts' products by torch and by QuACK, in bf16 and in FP8: a section of bench/ops.py."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.op_timing import BF16, FP8, Bench, D, E, H, R, attempt, say_checked
from nanochat.kernels import hopper_products as products

_SKEWED = [R // 8 + d for d in (2048, 1024, 512, 0, -256, -768, -1024, -1536)]


def _starts(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths], device="cuda").cumsum(0).to(torch.int32)


def _by_groups(lengths: Sequence[int], rows: Tensor, weight: Tensor) -> Tensor:
    """float64 reference: each group of rows times its own (K, M) matrix."""
    parts = rows.double().split(list(lengths))
    return torch.cat([part @ matrix for part, matrix in zip(parts, weight.double(), strict=True)])


def _grads_by_groups(lengths: Sequence[int], dy: Tensor, x: Tensor) -> Tensor:
    parts = zip(dy.double().split(list(lengths)), x.double().split(list(lengths)), strict=True)
    return torch.stack([a.t() @ b for a, b in parts])


def _check_bf16(lengths: Sequence[int], width: int, hidden: int) -> None:
    num_rows, num_experts = sum(lengths), len(lengths)
    starts = _starts(lengths)
    torch.full((2**27,), math.nan, device="cuda")  # what a kernel leaves unwritten reads as NaN
    x, dy = (torch.randn(num_rows, width, device="cuda").to(BF16) for _ in range(2))
    w1 = (torch.randn(num_experts, hidden, width, device="cuda") * width**-0.5).to(BF16)
    w2 = (torch.randn(num_experts, width, hidden, device="cuda") * width**-0.5).to(BF16)
    h = products.expert_up(x, w1, starts)
    h64 = _by_groups(lengths, x, w1.mT).relu().square()
    pairs = {"h": (h, h64), "y": (products.expert_rows(h, w2.mT, starts), _by_groups(lengths, h, w2.mT))}
    dz = products.expert_up_backward(dy, w2, h, starts)
    pairs["dz"] = (dz, _by_groups(lengths, dy, w2) * 2 * h.double().sqrt())
    pairs["dx"] = (products.expert_rows(dz, w1, starts), _by_groups(lengths, dz, w1))
    pairs["dw1"] = (products.expert_weight_grad(dz, x, starts), _grads_by_groups(lengths, dz, x))
    pairs["dw2"] = (products.expert_weight_grad(dy, h, starts), _grads_by_groups(lengths, dy, h))
    say_checked(f"QuACK bf16 {lengths}", pairs)


def _check_fp8(lengths: Sequence[int], width: int, hidden: int) -> None:
    num_rows, num_experts, starts = sum(lengths), len(lengths), _starts(lengths)
    x, dy = (torch.randn(num_rows, width, device="cuda").to(BF16) for _ in range(2))
    w1 = (torch.randn(num_experts, hidden, width, device="cuda") * width**-0.5).to(BF16)
    w2 = (torch.randn(num_experts, width, hidden, device="cuda") * width**-0.5).to(BF16)
    x8, w18, w28 = (x * 16).to(FP8), (w1 * 64).to(FP8), (w2 * 64).to(FP8)
    alpha, scale = torch.full((1,), 1 / 1024, device="cuda"), torch.full((1,), 8.0, device="cuda")
    h, h8 = products.expert_up_fp8(x8, w18, starts, alpha, scale)
    h64 = (_by_groups(lengths, x8.double(), w18.double().mT) / 1024).relu().square()
    pairs = {"h": (h, h64), "h8": (h8.double() / 8, h64)}
    y = products.expert_rows(h8, w28.mT, starts, alpha)
    pairs["y"] = (y, _by_groups(lengths, h8.double(), w28.double().mT) / 1024)
    row_scale = torch.rand(num_rows, device="cuda") + 0.5
    dy8, w2t8 = (dy * 16).to(FP8), w28.mT.contiguous()
    dz = products.expert_up_backward_fp8(dy8, w2t8, h, starts, row_scale)
    dh64 = _by_groups(lengths, dy8.double(), w28.double()) * row_scale.double()[:, None]
    pairs["dz"] = (dz, dh64 * 2 * h.double().sqrt())
    say_checked(f"QuACK fp8  {lengths}", pairs)


def experts(bench: Bench) -> None:
    """Checks the products on ragged groups and times them on balanced and skewed ones."""
    for lengths in ([64] * 8, [48, 0, 17, 191, 256, 0, 0, 0], [0] * 7 + [512], [512] + [0] * 7, [1, 2, 3, 506]):
        attempt(f"experts {lengths}", lambda n=lengths: _check_bf16(n, 256, 384))
        attempt(f"experts {lengths} in FP8", lambda n=lengths: _check_fp8(n, 256, 384))
    for kind, lengths in (("balanced", [R // E] * E), ("skewed", _SKEWED)):
        _time(bench, kind, lengths)


def _time(bench: Bench, kind: str, lengths: Sequence[int]) -> None:
    x, dy = (torch.randn(R, D, device="cuda").to(BF16) for _ in range(2))
    w1 = (torch.randn(E, H, D, device="cuda") * D**-0.5).to(BF16)
    w2 = (torch.randn(E, D, H, device="cuda") * D**-0.5).to(BF16)
    x8, dy8, w18, w28 = (x * 16).to(FP8), (dy * 16).to(FP8), (w1 * 64).to(FP8), (w2 * 64).to(FP8)
    w2t8 = w28.mT.contiguous()
    alpha, one = torch.full((1,), 1 / 1024, device="cuda"), torch.ones(1, device="cuda")
    ones = torch.ones(R, device="cuda")
    product: dict[str, Any] = {"flops": 2 * R * D * H}
    starts = _starts(lengths)
    ends = starts[1:].contiguous()
    h = products.expert_up(x, w1, starts)
    h8 = h.to(FP8)
    row_scale = torch.rand(R, device="cuda")
    calls: dict[str, tuple[Callable[[], object], bool]] = {
        "up torch": (lambda e=ends: F.grouped_mm(x, w1.mT, offs=e), False),
        "up + relu^2 QuACK": (lambda s=starts: products.expert_up(x, w1, s), False),
        "up plain QuACK": (lambda s=starts: products.expert_rows(x, w1.mT, s), False),
        "up + relu^2 QuACK fp8": (lambda s=starts: products.expert_up_fp8(x8, w18, s, alpha, one), True),
        "down torch": (lambda e=ends, h=h: F.grouped_mm(h, w2.mT, offs=e), False),
        "down QuACK": (lambda s=starts, h=h: products.expert_rows(h, w2.mT, s), False),
        "down QuACK fp8": (lambda s=starts, h=h8: products.expert_rows(h, w28.mT, s, alpha), True),
        "down torch fp8 rowwise": (
            lambda e=ends, h=h8: torch.ops.aten._scaled_grouped_mm(
                h,
                w28.mT,
                ones,
                torch.ones(E, D, device="cuda"),
                offs=e,
                out_dtype=BF16,
                use_fast_accum=True,
            ),
            True,
        ),
        "d up + drelu^2 QuACK": (lambda s=starts, h=h: products.expert_up_backward(dy, w2, h, s), False),
        "d up + drelu^2 QuACK fp8": (
            lambda s=starts, h=h, r=row_scale: products.expert_up_backward_fp8(dy8, w2t8, h, s, r),
            True,
        ),
        "dh plain QuACK": (lambda s=starts: products.expert_rows(dy, w2, s), False),
        "dh plain QuACK fp8": (lambda s=starts: products.expert_rows(dy8, w2t8.mT, s, alpha), True),
        "dx torch": (lambda e=ends, h=h: F.grouped_mm(h, w1, offs=e), False),
        "dx QuACK": (lambda s=starts, h=h: products.expert_rows(h, w1, s), False),
        "dw1 torch": (lambda e=ends, h=h: F.grouped_mm(h.t(), x, offs=e), False),
        "dw1 QuACK": (lambda s=starts, h=h: products.expert_weight_grad(h, x, s), False),
        "dw2 QuACK": (lambda s=starts, h=h: products.expert_weight_grad(dy, h, s), False),
    }
    for name, (call, fp8) in calls.items():
        bench.time(f"experts {kind} {name}", call, **product, fp8=fp8)
