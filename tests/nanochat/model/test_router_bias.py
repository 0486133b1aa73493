"""A bias evens out the load by its own steps, the same on any number of ranks, and a skipped step leaves it alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.config import MoEConfig
from nanochat.machine.ranks import Ranks
from nanochat.model.moe import Router
from nanochat.model.router_bias import RouterBias, lacking

ALONE = Ranks.from_environment(torch.device("cpu"))
MOE = MoEConfig(num_experts=4, top_k=1, router_bias_rate=0.01)
ACTIVE, SKIPPED = torch.tensor(1.0), torch.tensor(0.0)


def _router(*loads: int) -> Router:
    router = Router(8, MOE)
    assert router.loads is not None
    router.loads.copy_(torch.tensor(loads))
    return router


def _bias(router: Router) -> list[float]:
    assert router.bias is not None
    return router.bias.tolist()


def test_lacking_is_the_sign_of_the_error_without_rounding():
    share = 2**52 + 1  # as a float64, E x share would be rounded
    loads = torch.tensor([[3, 5, 4, 4], [0, 0, 0, 8], [share, share, share - 1, share + 1]])
    assert lacking(loads).tolist() == [[1, -1, 0, 0], [1, 1, 1, -1], [0, 0, 1, -1]]


def test_a_step_moves_every_bias_by_the_rate_and_forgets_the_loads():
    routers = [_router(3, 5, 4, 4), _router(0, 0, 0, 16)]
    bias = RouterBias(routers, MOE.router_bias_rate, ALONE)
    for _ in range(2):
        bias.start()
        bias.finish(ACTIVE)
    assert _bias(routers[0]) == pytest.approx([0.01, -0.01, 0, 0])
    assert _bias(routers[1]) == pytest.approx([0.01, 0.01, 0.01, -0.01])
    assert all(router.loads is not None and router.loads.sum() == 0 for router in routers)


def test_a_skipped_step_moves_no_bias_and_its_loads_do_not_count_later():
    router = _router(0, 0, 0, 16)
    bias = RouterBias([router], MOE.router_bias_rate, ALONE)
    bias.start()
    bias.finish(SKIPPED)
    bias.start()
    bias.finish(ACTIVE)
    assert _bias(router) == [0, 0, 0, 0]


def test_the_buffers_stay_where_they_are():
    router = _router(1, 2, 3, 4)
    before = [buffer.data_ptr() for buffer in router.buffers()]
    bias = RouterBias([router], MOE.router_bias_rate, ALONE)
    bias.start()
    bias.finish(ACTIVE)
    assert [buffer.data_ptr() for buffer in router.buffers()] == before


def test_an_uneven_router_that_learns_nothing_becomes_even():
    torch.manual_seed(0)
    router = Router(8, MOE)
    with torch.no_grad():
        router.weight.normal_(0, 0.3)
        router.weight[:, 0] = torch.tensor([2.0, 1.0, 0.0, -1.0])
    x = torch.randn(4000, 8)
    x[:, 0] = 1
    bias = RouterBias([router], MOE.router_bias_rate, ALONE)

    def loads() -> Tensor:
        return torch.bincount(router(x).experts.view(-1), minlength=4)

    assert loads().max() > 3000
    assert router.loads is not None
    for _ in range(120):
        router.loads.copy_(loads())
        bias.start()
        bias.finish(ACTIVE)
    assert loads().max() < 1200


def move(ranks: Ranks, shares: list[list[int]]) -> list[float]:
    """Each rank counts its part of the loads; the bias after the step."""
    mine = torch.tensor(shares[ranks.rank :: ranks.world_size]).sum(0)
    router = _router(*mine.tolist())
    bias = RouterBias([router], MOE.router_bias_rate, ranks)
    bias.start()
    bias.finish(ACTIVE)
    return _bias(router)


def test_ranks_move_alike_by_the_loads_of_all_of_them(run_world: Any):
    shares = [[9, 1, 1, 1], [1, 1, 1, 9], [1, 8, 1, 2], [0, 5, 3, 4], [2, 2, 6, 2], [1, 1, 6, 4]]
    assert torch.tensor(shares).sum(0).tolist() == [14, 18, 18, 22]
    alone = move(ALONE, shares)
    assert alone == pytest.approx([0.01, 0, 0, -0.01])
    for world_size in (2, 3):
        assert run_world(move, world_size, shares) == [alone] * world_size
