"""Routers balanced without a loss: after a step, experts above their share become less attractive, the others more.

Each expert of each layer has a bias on its score that counts in the choice of experts and nowhere else, so that balance
costs the language model no gradient. An optimizer step moves it by a fixed rate against the sign of the load's error,
whatever the error's size (Wang et al., arXiv 2408.15664; DeepSeek-V3, arXiv 2412.19437, with a rate of 0.001).

Loads are whole numbers, counted in the forward pass of every micro-step and summed over ranks during the optimizer's
work: the bias is the same on every rank and for every number of ranks, and nothing here waits for the device. Buffers
are changed in place, as recorded micro-steps need it.

Legend: L layers with experts, E experts.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from nanochat.machine.ranks import Handle, Ranks
from nanochat.model.moe import Router


class RouterBias:
    """Moves the biases of a model's routers, once per optimizer step: `start`, the optimizer's step, `finish`."""

    def __init__(self, routers: Iterable[Router], rate: float, ranks: Ranks) -> None:
        """The routers are those of one model, with a bias each."""
        self._biases, self._counters = [], []
        for router in routers:
            assert router.bias is not None
            assert router.loads is not None
            self._biases.append(router.bias)
            self._counters.append(router.loads)
        self._rate, self._ranks = rate, ranks
        self._loads = torch.empty(0)
        self._summing: Handle | None = None

    @torch.no_grad()
    def start(self) -> None:
        """Takes the loads that were counted since the last step and begins to sum them over ranks."""
        self._loads = torch.stack(self._counters)  # (L, E) int64
        torch._foreach_zero_(self._counters)  # pyright: ignore[reportPrivateImportUsage]
        self._summing = self._ranks.all_reduce_sum(self._loads)

    @torch.no_grad()
    def finish(self, active: Tensor) -> None:
        """Moves the biases, or leaves them where `active` () is 0: a skipped step changes nothing."""
        assert self._summing is not None, "finish belongs after start"
        self._summing.wait()
        change = self._rate * active.float() * lacking(self._loads)  # (L, E)
        torch._foreach_add_(self._biases, list(change.unbind()))  # pyright: ignore[reportPrivateImportUsage]


def lacking(loads: Tensor) -> Tensor:
    """1 where an expert has less than an equal share of its layer's load, -1 where more, 0 where just that.

    loads (L, E) int64 -> (L, E) fp32, exact.
    """
    return (loads.sum(-1, keepdim=True) - loads.shape[-1] * loads).sign().float()
