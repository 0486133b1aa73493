"""Weight gradients added where they are made, and the optimizer's own kernels, against float64 on a Hopper GPU."""

import copy
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.kernels import hopper_products as products
from nanochat.kernels.rows import gather_sum, mix_and_norm
from nanochat.kernels.totals import SortedIds, add_table_grad, add_weight_grad
from nanochat.machine.kernel_libraries import problems
from nanochat.optimizer.updates import UpdateKernels, neuron_dim

pytestmark = pytest.mark.gpu
BF16 = torch.bfloat16
GROUPS = ([64] * 8, [48, 0, 17, 191, 256, 0, 0, 0], [0] * 7 + [512], [1, 2, 3, 506])


@pytest.fixture(autouse=True)
def _hopper(gpu: torch.device) -> None:
    missing = problems(gpu)
    if missing:
        pytest.skip("; ".join(missing))


def _sqnr_db(actual: Tensor, exact: Tensor) -> float:
    noise = (actual.double() - exact.double()).norm().item()
    return 20 * math.log10(exact.double().norm().item() / noise) if noise > 0 else math.inf


@pytest.mark.parametrize("lengths", GROUPS, ids=str)
def test_the_experts_weight_gradients(gpu: torch.device, lengths: Sequence[int]) -> None:
    torch.manual_seed(0)
    rows, experts = sum(lengths), len(lengths)
    dy, x = torch.randn(rows, 256, device=gpu).to(BF16), torch.randn(rows, 384, device=gpu).to(BF16)
    total = (torch.randn(experts, 256, 384, device=gpu) * 10).to(BF16)
    starts = torch.tensor([0, *lengths], device=gpu).cumsum(0).to(torch.int32)
    pairs = zip(dy.double().split(list(lengths)), x.double().split(list(lengths)), strict=True)
    exact = total.double() + torch.stack([a.t() @ b for a, b in pairs])
    before = total.clone()
    products.add_expert_weight_grad(total, dy, x, starts)
    assert _sqnr_db(total, exact) > 50
    idle = [e for e, length in enumerate(lengths) if length == 0]
    assert torch.equal(total[idle], before[idle])


def test_a_linears_weight_gradient(gpu: torch.device) -> None:
    torch.manual_seed(1)
    dy, x = torch.randn(5000, 96, device=gpu).to(BF16), torch.randn(5000, 64, device=gpu).to(BF16)
    total = (torch.randn(96, 64, device=gpu) * 50).to(BF16)
    exact = total.double() + dy.double().t() @ x.double()
    add_weight_grad(total, dy, x)
    assert _sqnr_db(total, exact) > 52


@pytest.mark.parametrize("power", [1, 6, 40])
@pytest.mark.parametrize("width", [768, 200])
def test_a_tables_gradient_repeats_bit_for_bit(gpu: torch.device, width: int, power: int) -> None:
    torch.manual_seed(2)
    ids = (torch.rand(16384, device=gpu).pow(power) * 32768).long()
    grad = torch.randn(16384, width, device=gpu).to(BF16)
    first, again = torch.zeros(2, 32768, width, device=gpu, dtype=BF16)
    exact = torch.zeros(32768, width, device=gpu, dtype=torch.float64).index_add_(0, ids, grad.double())
    for total in (first, again):
        add_table_grad(total, grad, *SortedIds.of(ids))
    assert _sqnr_db(first, exact) > 54
    assert torch.equal(first, again)


@pytest.mark.parametrize("shape", [(5, 1536, 768), (5, 768, 1536), (3, 768, 768), (2, 100, 60)], ids=str)
def test_muons_own_kernels_move_weights_as_the_written_rule_does(gpu: torch.device, shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    value = torch.randn(shape, device=gpu)
    neurons = torch.zeros_like(value.mean(neuron_dim(*shape[1:]), keepdim=True))
    sent = torch.full(shape, float("nan"), device=gpu, dtype=BF16)
    both = [[t.clone() for t in (value, sent, torch.zeros_like(value), neurons)] for _ in range(2)]
    active = torch.ones(shape[0], 1, 1, device=gpu)
    active[1] = 0
    for _ in range(3):
        grad = torch.randn(shape, device=gpu).to(BF16)
        for kernels, state in zip((UpdateKernels(), UpdateKernels.own(by_half=False)), both, strict=True):
            kernels.muon(
                state[0],
                state[1],
                grad,
                state[2],
                state[3],
                lr=torch.full((shape[0], 1, 1), 0.02, device=gpu),
                active=active,
                momentum=torch.tensor(0.9, device=gpu),
                weight_decay=torch.tensor(0.2, device=gpu),
                work_dtype=torch.float32,
            )
    # Weight decay acts where an update has the weight's sign: a handful of updates near zero have either.
    for mine, theirs in zip(both[1], both[0], strict=True):
        is_close = torch.isclose(mine.float(), theirs.float(), rtol=1e-2 if mine.dtype == BF16 else 1e-3, atol=1e-5)
        assert is_close.float().mean() > 1 - 1e-5
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=2e-2, atol=0.02)
    assert torch.equal(both[1][0][1], value[1])


def test_adams_own_kernel(gpu: torch.device) -> None:
    torch.manual_seed(4)
    size = 100_000
    state = [torch.randn(size, device=gpu), torch.empty(size, device=gpu, dtype=BF16)]
    state += [torch.randn(size, device=gpu), torch.rand(size, device=gpu)]
    both = [state, copy.deepcopy(state)]
    for kernels, (value, sent, average, square) in zip(
        (UpdateKernels(), UpdateKernels.own(by_half=True)), both, strict=True
    ):
        kernels.adamw(
            value,
            sent,
            torch.arange(size, device=gpu).to(BF16),
            average,
            square,
            lr=torch.tensor(0.01, device=gpu),
            active=torch.tensor(1.0, device=gpu),
            betas=(torch.tensor(0.8, device=gpu).double(), torch.tensor(0.95, device=gpu).double()),
            biases=(torch.tensor(0.2, device=gpu), torch.tensor(0.05, device=gpu)),
        )
    for mine, theirs in zip(both[1], both[0], strict=True):
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=1e-2 if mine.dtype == BF16 else 1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_extents_of_many_gradients(gpu: torch.device, bad: float | None) -> None:
    torch.manual_seed(5)
    grads = torch.randn(3, 1_000_003, device=gpu).to(BF16)
    if bad is not None:
        grads[1, 999_999] = bad
    largest, square = UpdateKernels.own(by_half=True).extents(grads)
    assert largest.isfinite().tolist() == [True, bad is None, True]
    torch.testing.assert_close(largest[[0, 2]], grads[[0, 2]].abs().amax(1).float())
    torch.testing.assert_close(square[[0, 2]].double(), grads[[0, 2]].double().square().sum(1), rtol=1e-5, atol=0)


def test_rows_are_gathered_mixed_and_normed(gpu: torch.device) -> None:
    torch.manual_seed(6)
    y, rows = torch.randn(300, 768, device=gpu).to(BF16), torch.randint(0, 301, (200, 2), device=gpu)
    weights = torch.rand(200, 2, device=gpu)
    exact = (torch.cat([y, y.new_zeros(1, 768)]).double()[rows] * weights.double()[:, :, None]).sum(1)
    assert _sqnr_db(gather_sum(y, rows, weights), exact) > 54
    inputs = [torch.randn(5, 100, 768, device=gpu).to(BF16).requires_grad_() for _ in range(2)]
    scales = torch.tensor([0.8, 0.3], device=gpu, requires_grad=True)
    leaves = [leaf.detach().double().requires_grad_() for leaf in (*inputs, scales)]
    mixed = leaves[2][0] * leaves[0] + leaves[2][1] * leaves[1]
    above = torch.randn(2, 5, 100, 768, device=gpu).to(BF16)
    pairs: list[list[Tensor]] = []
    for out, of in (
        (mix_and_norm(inputs[0], inputs[1], scales), [*inputs, scales]),
        ((mixed, F.rms_norm(mixed, (768,), eps=1e-7)), leaves),
    ):
        total = sum((o.double() * a.double()).sum() for o, a in zip(out, above, strict=True))
        assert isinstance(total, Tensor)
        pairs.append([*(o.detach() for o in out), *torch.autograd.grad(total, of)])
    for mine, theirs in zip(*pairs, strict=True):
        assert _sqnr_db(mine, theirs) > 46
