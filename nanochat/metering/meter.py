"""Time and numbers of one step: measured on each rank, reduced over ranks, turned into a StepStats.

The loss, the router's statistics and whether the step counted are gathered on the device over the micro-steps and read
once, where the step ends in a synchronisation anyway; so are the marks of the step's phases.
"""

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import islice

import torch
from torch import Tensor

from nanochat import sizes
from nanochat.config import TrainConfig
from nanochat.machine.device import Device
from nanochat.metering.phases import PhaseClock
from nanochat.model import compiling
from nanochat.model.moe import stat_names
from nanochat.stats import PHASES

EMA_DECAY = 0.9
UNTIMED_STEPS = 11  # total time leaves out steps 0 to 10
_WAKES_LATE_S = 0.0002


class Meter:
    """Collects one step's numbers on the device, without waiting for it."""

    def __init__(self, device: Device, num_layers: int, num_stats: int) -> None:
        """`num_stats` numbers (S) are kept per layer: those of `moe.stat_names`."""
        self._device = device
        self._totals = torch.zeros(3, device=device.torch_device)  # loss, last loss, balance
        self._router = torch.zeros(num_layers, num_stats, device=device.torch_device)
        self._start_s, self._num_graphs = 0.0, 0
        self.phases = PhaseClock(device.torch_device)

    def start(self) -> None:
        """Begins a step; the device must be idle."""
        self.clear()
        self._num_graphs = compiling.num_graphs()
        self._start_s = time.perf_counter()
        self.phases.start()

    def clear(self) -> None:
        """Forgets the micro-steps of this step, not when it began."""
        self._totals.zero_()
        self._router.zero_()

    @torch.no_grad()
    def add(self, loss: Tensor, balance: Tensor, router: Tensor) -> None:
        """One micro-step: cross-entropy (), balance loss (), router statistics (L, S)."""
        self._totals[0] += loss
        self._totals[1] = loss
        self._totals[2] += balance
        self._router += router

    def stop(
        self,
        active: Tensor,
        num_micro_steps: int,
        checkpoint_ms: float,
        inject_pct: float = 0.0,
        grad_square: Tensor | None = None,
    ) -> "RankStep":
        """Waits for the device and reads everything. `active` () is 0 where the update was skipped.

        What has passed since the last mark counts as `optimizer`; `checkpoint_ms` was measured by the caller. With
        `inject_pct` the step is then made longer by so many percent of its time. `grad_square` () is this rank's share
        of the squared norm of the gradient.
        """
        self.phases.mark("optimizer")
        square = torch.zeros_like(active) if grad_square is None else grad_square
        of_step = torch.stack((active.double(), square.double()))
        packed = torch.cat((self._totals.double(), of_step, self._router.double().view(-1)))
        numbers = packed.tolist()
        self._device.synchronize()
        injected_ms = self._inject(inject_pct) if inject_pct > 0 else 0.0
        dt_ms = (time.perf_counter() - self._start_s) * 1e3
        loss, last_loss, balance, was_active, own_square = numbers[:5]
        return RankStep(
            dt_ms=dt_ms,
            loss=loss / num_micro_steps,
            last_loss=last_loss,
            balance=balance / num_micro_steps,
            active=was_active,
            peak_mib=self._device.peak_mib(),
            compiled_graphs=float(compiling.num_graphs() - self._num_graphs),
            phases_ms=[*self.phases.read_ms(), checkpoint_ms],
            router=[number / num_micro_steps for number in numbers[5:]],
            injected_ms=injected_ms,
            grad_square=own_square,
        )

    def _inject(self, pct: float) -> float:
        """Sleeps for a share of the step's time so far; for how long, in ms. A sleep wakes late, so the end is spun."""
        begun_s = time.perf_counter()
        end_s = begun_s + (begun_s - self._start_s) * pct / 100
        time.sleep(max(0.0, end_s - begun_s - _WAKES_LATE_S))
        while time.perf_counter() < end_s:
            pass
        return (time.perf_counter() - begun_s) * 1e3


@dataclass(frozen=True)
class RankStep:
    """What one rank measured in one step; means over its micro-steps."""

    dt_ms: float
    loss: float
    last_loss: float
    balance: float
    active: float
    peak_mib: float
    compiled_graphs: float  # in this step; not those of an evaluation before it
    phases_ms: list[float]  # of PHASES; all but the last add up to at most dt
    router: list[float]  # L x S
    injected_ms: float = 0.0  # of dt_ms, by which the step was delayed on purpose
    grad_square: float = 0.0  # of the part of the mean gradient that is this rank's; those of all ranks add up

    def as_floats(self) -> list[float]:
        """Flat, for a collective; `from_floats` is the inverse."""
        return [*(getattr(self, name) for name in _SCALARS), *self.phases_ms, *self.router]

    @staticmethod
    def from_floats(values: Iterable[float]) -> "RankStep":
        """The inverse of `as_floats`; from an iterator it takes all that is left."""
        rest = iter(values)
        scalars = dict(zip(_SCALARS, rest, strict=False))
        return RankStep(**scalars, phases_ms=list(islice(rest, len(PHASES))), router=list(rest))


_SCALARS = tuple(field.name for field in fields(RankStep) if field.type is float)


def phase_columns(every_rank: list[RankStep]) -> dict[str, float]:
    """Each phase's milliseconds as `NAME_ms`, of the rank that spent most, and `NAME_median_ms`, over ranks.

    Different ranks can be the slowest in different phases, so only one rank's phases add up to its dt.
    """
    columns: dict[str, float] = {}
    for name, spent_ms in zip(PHASES, zip(*(step.phases_ms for step in every_rank), strict=True), strict=True):
        columns |= {f"{name}_ms": max(spent_ms), f"{name}_median_ms": statistics.median(spent_ms)}
    return columns


@dataclass(frozen=True, kw_only=True)
class RouterSummary:
    """Router statistics over ranks: over all layers, and of each layer with experts, in their order."""

    dropped_pct: float  # mean over layers
    max_vio: float  # of the worst layer
    dead_experts: float  # summed over layers
    lost_tokens_pct: float  # mean over layers
    z_loss: float | None  # summed over layers; None where it has no weight
    largest_router_bias: float | None  # of any expert of any layer, by magnitude; None without biases
    layer_dropped_pct: tuple[float, ...]
    layer_max_vio: tuple[float, ...]
    layer_dead_experts: tuple[float, ...]
    layer_lost_tokens_pct: tuple[float, ...]


def summarize_router(config: TrainConfig, steps: list[RankStep]) -> RouterSummary | None:
    """None for a model without experts. Layers without experts do not count."""
    if config.moe is None:
        return None
    layers = [i for i in range(config.model.depth) if sizes.is_moe_layer(config, i)]
    names = stat_names(config.moe)

    def mean_over_ranks(layer: int, stat: str) -> float:
        place = layer * len(names) + names.index(stat)
        return statistics.fmean(step.router[place] for step in steps)

    by_stat = {stat: [mean_over_ranks(layer, stat) for layer in layers] for stat in names}
    return RouterSummary(
        dropped_pct=100 * statistics.fmean(by_stat["dropped"]),
        max_vio=max(by_stat["max_vio"]),
        dead_experts=sum(by_stat["dead_experts"]),
        lost_tokens_pct=100 * statistics.fmean(by_stat["lost_tokens"]),
        z_loss=sum(by_stat["z_loss"]) if "z_loss" in by_stat else None,
        largest_router_bias=max(by_stat["largest_bias"]) if "largest_bias" in by_stat else None,
        layer_dropped_pct=_short(100 * share for share in by_stat["dropped"]),
        layer_max_vio=_short(by_stat["max_vio"]),
        layer_dead_experts=_short(by_stat["dead_experts"]),
        layer_lost_tokens_pct=_short(100 * share for share in by_stat["lost_tokens"]),
    )


def _short(values: Iterable[float]) -> tuple[float, ...]:
    """To four decimals: a row is written for every step, and holds many of these."""
    return tuple(round(value, 4) for value in values)


def mfu_pct(config: TrainConfig, tok_per_sec: float, peak_flops: float, dropped_pct: float) -> tuple[float, float]:
    """Model FLOP utilisation in percent of the peak of all cards: as usually counted, and without dropped work."""
    flops = sizes.flops_per_token(config)
    wasted = 0.0
    if config.moe is not None:
        num_layers = sum(sizes.is_moe_layer(config, i) for i in range(config.model.depth))
        per_assignment = 6 * 2 * config.moe.hidden_mult * config.model.width**2
        wasted = num_layers * config.moe.top_k * per_assignment * dropped_pct / 100
    scale = 100 * tok_per_sec / peak_flops
    return flops * scale, (flops - wasted) * scale
