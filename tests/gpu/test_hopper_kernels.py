"""What the kernels for Hopper compute is what the plain formulas say in float64, on ragged, empty and full groups.

SQNR is the signal-to-quantisation-noise ratio in decibels: 55 for a result rounded to bf16 once, 31 for one in e4m3.
"""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.config import MoEConfig, Precision, PrecisionConfig
from nanochat.kernels import hopper_products as products
from nanochat.kernels.capped_loss import head_loss
from nanochat.kernels.combining import combine_backward
from nanochat.kernels.flash4 import attend_flash4
from nanochat.kernels.fp8_weights import Fp8Weight
from nanochat.kernels.hopper_layers import Fp8Linears, fp8_linears
from nanochat.kernels.rotary import queries_keys_values
from nanochat.machine.kernel_libraries import problems
from nanochat.model.attention import rotary_tables, rotate
from nanochat.model.kernel_choice import PLAIN, Kernels
from nanochat.model.moe import MoE
from nanochat.optimizer.updates import orthogonal_factor
from tests.helpers.gpu import check_gradients, exact_window_attention, sqnr_db

pytestmark = pytest.mark.gpu
FP8, BF16 = torch.float8_e4m3fn, torch.bfloat16
QUACK = Kernels(products="quack", own=True)
GROUPS = ([64] * 8, [48, 0, 17, 191, 256, 0, 0, 0], [0] * 7 + [512], [512] + [0] * 7, [1, 2, 3, 506])


@pytest.fixture(autouse=True)
def _hopper(gpu: torch.device) -> None:
    missing = problems(gpu)
    if missing:
        pytest.skip("; ".join(missing))


def _bf16(gpu: torch.device, *shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, device=gpu) * scale).to(BF16)


def _by_groups(lengths: Sequence[int], rows: Tensor, weight: Tensor) -> Tensor:
    parts = rows.double().split(list(lengths))
    return torch.cat([part @ matrix for part, matrix in zip(parts, weight.double(), strict=True)])


def _starts(gpu: torch.device, lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths], device=gpu).cumsum(0).to(torch.int32)


@pytest.mark.parametrize("lengths", GROUPS, ids=str)
def test_the_experts_products_in_bf16(gpu: torch.device, lengths: list[int]) -> None:
    torch.manual_seed(0)
    rows, experts, starts = sum(lengths), len(lengths), _starts(gpu, lengths)
    x, dy = _bf16(gpu, rows, 256), _bf16(gpu, rows, 256)
    w1, w2 = _bf16(gpu, experts, 384, 256, scale=1 / 16), _bf16(gpu, experts, 256, 384, scale=1 / 16)
    hidden = products.expert_up(x, w1, starts)
    dz = products.expert_up_backward(dy, w2, hidden, starts)
    dw = products.expert_weight_grad(dy, hidden, starts)
    exact_dw = torch.stack(
        [a.t() @ b for a, b in zip(dy.double().split(lengths), hidden.double().split(lengths), strict=True)]
    )
    pairs = (
        (hidden, _by_groups(lengths, x, w1.mT).relu().square()),
        (products.expert_rows(hidden, w2.mT, starts), _by_groups(lengths, hidden, w2.mT)),
        (dz, _by_groups(lengths, dy, w2) * 2 * hidden.double().sqrt()),
        (products.expert_rows(dz, w1, starts), _by_groups(lengths, dz, w1)),
        (dw, exact_dw),
    )
    for ours, exact in pairs:
        assert sqnr_db(ours, exact) > 54
    assert (dw[[e for e, length in enumerate(lengths) if length == 0]] == 0).all()


@pytest.mark.parametrize("lengths", GROUPS, ids=str)
def test_the_experts_products_in_fp8(gpu: torch.device, lengths: list[int]) -> None:
    torch.manual_seed(1)
    rows, experts, starts = sum(lengths), len(lengths), _starts(gpu, lengths)
    x, dy = (_bf16(gpu, rows, 256) * 16).to(FP8), (_bf16(gpu, rows, 256) * 16).to(FP8)
    w1, w2 = _bf16(gpu, experts, 384, 256, scale=4).to(FP8), _bf16(gpu, experts, 256, 384, scale=4).to(FP8)
    alpha, hidden_scale = torch.full((1,), 1 / 1024, device=gpu), torch.full((1,), 8.0, device=gpu)
    row_scale = torch.rand(rows, device=gpu) + 0.5
    hidden, hidden8 = products.expert_up_fp8(x, w1, starts, alpha, hidden_scale)
    exact_hidden = (_by_groups(lengths, x.double(), w1.double().mT) / 1024).relu().square()
    y = products.expert_rows(hidden8, w2.mT, starts, alpha)
    dz = products.expert_up_backward_fp8(dy, w2.mT.contiguous(), hidden, starts, row_scale)
    exact_dh = _by_groups(lengths, dy.double(), w2.double()) * row_scale.double()[:, None]
    assert sqnr_db(hidden, exact_hidden) > 54
    assert sqnr_db(hidden8.double() / 8, exact_hidden) > 31
    assert sqnr_db(y, _by_groups(lengths, hidden8.double(), w2.double().mT) / 1024) > 54
    assert sqnr_db(dz, exact_dh * 2 * hidden.double().sqrt()) > 54


def test_fp8_products_take_the_fast_accumulation(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    products.fp8_product(*(torch.ones(64, 64, device=gpu).to(FP8) for _ in range(2)), None, None)  # sets QuACK up
    import quack.cache  # pyright: ignore[reportMissingImports]
    from quack.gemm_sm90 import GemmSm90  # pyright: ignore[reportMissingImports]

    built: list[bool] = []
    original = GemmSm90.__init__

    def recorded(self: object, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)
        built.append(vars(self)["fp8_slow_accum"])

    monkeypatch.setattr(GemmSm90, "__init__", recorded)
    monkeypatch.setattr(quack.cache, "CACHE_ENABLED", False)
    x, weight = _bf16(gpu, 256, 80).to(FP8), _bf16(gpu, 272, 80).to(FP8)
    row_scale = torch.rand(256, device=gpu)
    y = products.fp8_product(x, weight, None, row_scale)
    assert built, "a kernel was built for this product"
    assert not any(built)
    assert sqnr_db(y, x.double() @ weight.double().t() * row_scale.double()[:, None]) > 50


@pytest.mark.parametrize("normed", [True, False])
def test_a_linear_in_fp8_keeps_27_db_both_ways_and_its_weight_gradient_45(gpu: torch.device, normed: bool) -> None:
    torch.manual_seed(2)
    weights = [_bf16(gpu, outer, 256, scale=1 / 16).requires_grad_() for outer in (128, 384)]
    x = F.rms_norm(_bf16(gpu, 512, 256), (256,)).detach().requires_grad_()
    linears = Fp8Linears(weights, normed=normed)
    linears.refresh(weights)
    y = fp8_linears(x, weights, linears)
    above = _bf16(gpu, 512, 512)
    y.backward(above)
    stacked = torch.cat([w.detach() for w in weights]).double()
    assert x.grad is not None
    assert sqnr_db(y.detach(), x.detach().double() @ stacked.t()) > 27
    assert sqnr_db(x.grad, above.double() @ stacked) > 27
    exact = (above.double().t() @ x.detach().double()).split([128, 384])
    for weight, theirs in zip(weights, exact, strict=True):
        assert weight.grad is not None
        assert sqnr_db(weight.grad, theirs) > 45


def test_fp8_copies_are_rounded_as_torch_rounds(gpu: torch.device) -> None:
    weight = _bf16(gpu, 3, 200, 136)
    copies = Fp8Weight([weight], transposed=True)
    copies.refresh([weight])
    assert copies.qt is not None
    assert torch.equal((weight.float() / copies.factor).clamp(-448, 448).to(FP8).float(), copies.q.float())
    assert torch.equal(copies.q.float(), copies.qt.float().mT)


@pytest.mark.parametrize("experts", ["bf16", "fp8"])
@pytest.mark.parametrize("factor", [None, 1.0, 0.3])
def test_a_layer_of_experts_computes_what_torchs_kernels_compute(
    gpu: torch.device, factor: float | None, experts: Precision
) -> None:
    config = MoEConfig(num_experts=8, top_k=2, hidden_mult=2, capacity_factor=factor)
    torch.manual_seed(3)
    layers = [MoE(256, config, PrecisionConfig(experts=experts), kernels).to(gpu) for kernels in (PLAIN, QUACK)]
    with torch.no_grad():
        for pair in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
            pair[0].normal_(0, 1 / 16)
            pair[1].copy_(pair[0])
    x = F.rms_norm(_bf16(gpu, 1, 1000, 256), (256,))
    above = _bf16(gpu, 1, 1000, 256)
    found: list[list[Tensor]] = []
    for layer in layers:
        layer.experts.to(BF16)
        layer.experts.refresh_fp8()
        leaf = x.clone().requires_grad_()
        out, losses, _ = layer(leaf, layer.capacity(1000))
        total = (out.float() * above.float()).sum() + losses.balance
        found.append([out.detach(), *torch.autograd.grad(total, (leaf, *layer.parameters()))])
    least = 38 if experts == "bf16" else 20  # two roundings to FP8 that differ
    for plain, ours in zip(*found, strict=True):
        assert torch.isfinite(ours).all()
        assert sqnr_db(ours, plain) > least


@pytest.mark.parametrize(("window", "seq_len"), [(512, 512), (1, 512), (128, 512), (511, 512), (100, 300), (64, 64)])
def test_flash_attention_4_in_a_window_equals_the_masked_reference(
    gpu: torch.device, window: int, seq_len: int
) -> None:
    torch.manual_seed(4)
    wide = _bf16(gpu, 2, seq_len, 3 * 3 * 64)  # q, k and v as one product leaves them
    inputs = [t.view(2, seq_len, 3, 64).detach().requires_grad_() for t in wide.chunk(3, dim=-1)]
    exact, exact_inputs = exact_window_attention(inputs, window)
    out = attend_flash4(inputs[0], inputs[1], inputs[2], window)
    above = torch.randn_like(out)
    out.backward(above)
    exact.backward(above.double())
    assert sqnr_db(out.detach(), exact.detach()) > 50
    check_gradients(inputs, exact_inputs, 46)


@pytest.mark.parametrize(
    ("batch", "seq_len", "heads", "head_dim"), [(2, 128, 12, 64), (1, 100, 3, 128), (3, 64, 5, 32)]
)
def test_queries_keys_and_values(gpu: torch.device, batch: int, seq_len: int, heads: int, head_dim: int) -> None:
    torch.manual_seed(5)
    width = heads * head_dim
    x = _bf16(gpu, batch, seq_len, width).requires_grad_()
    q, k, v = (_bf16(gpu, width, width, scale=width**-0.5).requires_grad_() for _ in range(3))
    cos, sin = rotary_tables(seq_len, head_dim, gpu, BF16)
    ours = queries_keys_values(x, (q, k, v), cos, sin, heads, None)
    above = [torch.randn_like(out) for out in ours]
    torch.autograd.backward(ours, above)
    leaves = [leaf.detach().double().requires_grad_() for leaf in (x, q, k, v)]
    raw = [(leaves[0] @ w.t()).view(batch, seq_len, heads, head_dim) for w in leaves[1:]]
    turned = [F.rms_norm(rotate(t, cos.double(), sin.double()), (head_dim,), eps=1e-7) for t in raw[:2]]
    exact = (*turned, raw[2])
    torch.autograd.backward(exact, [a.double() for a in above])
    pairs = [*zip(ours, exact, strict=True), *((a.grad, b.grad) for a, b in zip((x, q, k, v), leaves, strict=True))]
    for mine, theirs in pairs:
        assert mine is not None
        assert theirs is not None
        assert sqnr_db(mine.detach(), theirs.detach()) > 50


def test_gradients_of_combining_in_bf16_and_fp8(gpu: torch.device) -> None:
    torch.manual_seed(6)
    out_grad, y = _bf16(gpu, 100, 768), _bf16(gpu, 256, 768)
    weight, token = torch.rand(256, device=gpu), torch.randint(0, 101, (256,), device=gpu)
    dy, dy8, scale, dot = combine_backward(out_grad, y, weight, token, True)
    of_token = torch.cat([out_grad, out_grad.new_zeros(1, 768)]).double()[token]
    exact = of_token * weight.double()[:, None]
    assert sqnr_db(dy, exact) > 54
    assert sqnr_db(dy8.double() * scale.double()[:, None], exact) > 31
    assert sqnr_db(dot, (of_token * y.double()).sum(1)) > 100
    assert (dy[token == 100] == 0).all()


@pytest.mark.parametrize(("vocab_size", "num_columns"), [(32768, 32768), (1000, 1024)])
def test_the_fused_loss_and_its_gradients(gpu: torch.device, vocab_size: int, num_columns: int) -> None:
    torch.manual_seed(7)
    x, weight = _bf16(gpu, 300, 64).requires_grad_(), _bf16(gpu, num_columns, 64, scale=2.0).requires_grad_()
    targets, above = torch.randint(-1, vocab_size, (300,), device=gpu), torch.rand(300, device=gpu)
    x64, weight64 = (t.detach().double().requires_grad_() for t in (x, weight))
    losses = head_loss(x, weight, targets, vocab_size, 15.0, True)
    capped = 15 * torch.tanh((x64 @ weight64.t())[:, :vocab_size] / 15)
    exact = F.cross_entropy(capped, targets, ignore_index=-1, reduction="none")
    losses.backward(above)
    exact.backward(above.double())
    assert sqnr_db(losses.detach(), exact.detach()) > 60
    for ours, theirs in ((x.grad, x64.grad), (weight.grad, weight64.grad)):
        assert ours is not None
        assert theirs is not None
        assert sqnr_db(ours, theirs) > 48


@pytest.mark.parametrize("shape", [(4, 256, 256), (4, 512, 256), (4, 256, 512), (6, 12, 32)], ids=str)
def test_an_orthogonal_factor_by_half_is_as_exact_as_a_whole_one(gpu: torch.device, shape: tuple[int, ...]) -> None:
    torch.manual_seed(8)
    y = torch.randn(*shape, device=gpu)
    y = (y / y.norm(dim=(1, 2), keepdim=True) / 1.01).to(BF16)
    exact = orthogonal_factor(y.double())
    whole, by_half = (sqnr_db(orthogonal_factor(y, by_half=half), exact) for half in (False, True))
    assert by_half > whole - 1
