"""What is added to a total is what autograd would have added."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nanochat.kernels.totals import SortedIds, add_table_grad, linear, look_up, together


def _frequent(size: int) -> Tensor:
    return (torch.rand(size).pow(6) * 50).long()


IDS: dict[str, Callable[[], Tensor]] = {
    "spread": lambda: torch.randint(0, 50, (200,)),
    "frequent": lambda: _frequent(300),
    "one id": lambda: torch.full((131,), 7),
    "one id that fills chunks": lambda: torch.full((128,), 49),
    "chunks of their own": lambda: torch.arange(4).repeat_interleave(32),
    "one over a border": lambda: torch.tensor([0] * 31 + [1] * 2 + [2] * 95),
    "a single token": lambda: torch.tensor([49]),
    "no token": lambda: torch.zeros(0, dtype=torch.int64),
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("width", [1, 128, 200])
def test_a_tables_gradient_is_added_to_the_rows_that_occur(name: str, width: int) -> None:
    torch.manual_seed(0)
    ids = IDS[name]()
    grad, total = torch.randn(ids.numel(), width), torch.randn(50, width)
    wanted = total.double().index_add(0, ids, grad.double())
    untouched = torch.ones(50, dtype=torch.bool).index_fill(0, ids, False)
    before = total.clone()
    add_table_grad(total, grad, *SortedIds.of(ids))
    torch.testing.assert_close(total.double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(total[untouched], before[untouched])


def test_gradients_that_lie_behind_each_other_are_one_total() -> None:
    whole = torch.zeros(4, 3, 3)
    params = [nn.Parameter(torch.randn(3, 3)) for _ in range(4)]
    for param, grad in zip(params, whole, strict=True):
        param.grad = grad
    total = together(*params[:3])
    assert total is not None
    total += 1
    assert (whole[:3] == 1).all()
    assert (whole[3] == 0).all()
    assert together(params[0], params[2]) is None, "not neighbours"
    assert together(nn.Parameter(torch.randn(3))) is None, "no gradient"
    wide = nn.Parameter(torch.randn(3).bfloat16())
    wide.grad_dtype = torch.float32
    wide.grad = torch.zeros(3)
    assert together(wide) is None, "added up in another dtype"


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("mode", ["none", "static", "dynamic"])
def test_layers_add_to_totals_micro_step_by_micro_step(mode: str) -> None:
    torch.manual_seed(1)
    table, weight = nn.Parameter(torch.randn(9, 4)), nn.Parameter(torch.randn(6, 4))
    grads = torch.zeros(9 * 4 + 6 * 4)
    table.grad, weight.grad = grads[:36].view(9, 4), grads[36:].view(6, 4)
    of_table, of_weight = together(table), together(weight)
    assert of_table is not None
    assert of_weight is not None

    def layer(ids: Tensor, of_table: Tensor, of_weight: Tensor, sorted_ids: SortedIds) -> Tensor:
        return linear(look_up(table, ids, of_table, sorted_ids), weight, of_weight).square().sum()

    run = layer if mode == "none" else torch.compile(layer, backend="aot_eager", dynamic=mode == "dynamic")
    plain_table, plain_weight = (p.detach().clone().requires_grad_() for p in (table, weight))
    for _ in range(3):
        ids = torch.randint(0, 9, (2, 5))
        run(ids, of_table, of_weight, SortedIds.of(ids)).backward()
        (plain_table[ids] @ plain_weight.t()).square().sum().backward()
    torch.testing.assert_close(table.grad, plain_table.grad)
    torch.testing.assert_close(weight.grad, plain_weight.grad)
