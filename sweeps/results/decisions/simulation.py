"""How often the decisions are wrong: simulated experiments, judged by the same functions as real ones.

A run is N step times: an effect of the run, autocorrelated noise between steps, spikes, and a drift over the blocks.
Its value is the trimmed mean of their logarithms. The blocks then go through `findings` look by look, until every leg
is decided or the blocks are used up, as a launch with automatic blocks would.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweeps.results.decisions.contrasts import Floats
from sweeps.results.decisions.looks import Finding, findings
from sweeps.results.decisions.reach import DEFAULT_FLOOR_SD

SIMULATED_STEPS = 50
_TRIM = 0.10  # of each end, as a run's value is measured


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What varies in an experiment. Standard deviations are of ln(dt)."""

    run_sd: float  # between runs, beyond what the steps of a run explain
    step_sd: float = 0.003  # within a run
    phi: float = 0.3  # lag-1 correlation within a run
    spike_rate: float = 0.0  # share of steps that take half as long again
    block_sd: float = 0.003
    drift_per_block: float = 0.0
    num_steps: int = SIMULATED_STEPS  # of a run's window


@dataclass(frozen=True, kw_only=True)
class World:
    """What is true in a simulated experiment. Effects are of ln(dt)."""

    noise: Noise
    effects: Sequence[float]  # per leg, the baseline first
    scale: Sequence[float]  # per leg, by which its runs differ more than the noise says


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of the simulated experiments, and how long they took."""

    wrong: float  # some leg called faster or slower though its effect has not that sign
    found: float  # every leg with an effect was called faster or slower as it is
    equivalent: float  # every leg without an effect was called equivalent
    wrongly_equivalent: float  # some leg with an effect of 1 % or more was called equivalent
    invalid: float
    mean_blocks: float


def run_values(world: World, num_blocks: int, generator: np.random.Generator) -> Floats:
    """The runs of one experiment (R, K): ln(dt), the trimmed mean over their steps."""
    noise, num_legs = world.noise, len(world.effects)
    shape = (num_blocks, num_legs, noise.num_steps)
    steps = generator.standard_normal(shape) * noise.step_sd * np.sqrt(1 - noise.phi**2)
    steps[..., 0] /= np.sqrt(1 - noise.phi**2)
    for step in range(1, noise.num_steps):
        steps[..., step] += noise.phi * steps[..., step - 1]
    steps += np.where(generator.random(shape) < noise.spike_rate, np.log(1.5), 0.0)
    cut = int(noise.num_steps * _TRIM)
    within = np.sort(steps, axis=-1)[..., cut : noise.num_steps - cut].mean(axis=-1)
    runs = generator.standard_normal((num_blocks, num_legs)) * (noise.run_sd * np.asarray(world.scale))
    blocks = generator.standard_normal((num_blocks, 1)) * noise.block_sd
    places = generator.permuted(np.tile(np.arange(num_legs), (num_blocks, 1)), axis=1)
    when = np.arange(num_blocks)[:, None] + places / num_legs  # in blocks since the start
    return np.asarray(world.effects) + runs + within + blocks + noise.drift_per_block * when


def rates(
    world: World, *, num_experiments: int, max_blocks: int = 8, floor_sd: float = DEFAULT_FLOOR_SD, seed: int = 0
) -> Rates:
    """What happens in many experiments of that world."""
    generator = np.random.default_rng(seed)
    counts = np.zeros(6)
    for _ in range(num_experiments):
        values = run_values(world, max_blocks, generator)
        said, num_blocks = _until_decided(values, max_blocks, floor_sd)
        counts += [*_judged(world.effects, said), num_blocks]
    return Rates(**dict(zip(Rates.__dataclass_fields__, (counts / num_experiments).tolist(), strict=True)))


def _until_decided(values: Floats, max_blocks: int, floor_sd: float) -> tuple[list[Finding], int]:
    """The findings when every leg was decided, which a later block does not change, or after all blocks."""
    legs = findings(values, 0, max_blocks, floor_sd)[1:]
    decided = [leg.decided_after for leg in legs if leg.decided_after is not None]
    num_blocks = max(decided) if len(decided) == len(legs) else max_blocks
    return [leg.finding for leg in findings(values[:num_blocks], 0, max_blocks, floor_sd)], num_blocks


def _judged(effects: Sequence[float], said: Sequence[Finding]) -> list[bool]:
    """In the order of the fields of `Rates`, less the last."""
    others = list(zip(effects, said, strict=True))[1:]
    signs: dict[Finding, int] = {"LOWER": -1, "HIGHER": 1}
    called = [(np.sign(effect), signs.get(word)) for effect, word in others]
    return [
        any(sign is not None and sign != true for true, sign in called),
        all(sign == true for true, sign in called if true),
        all(word == "EQUIVALENT" for effect, word in others if not effect),
        any(word == "EQUIVALENT" for effect, word in others if abs(effect) >= np.log(1.01) - 1e-12),
        any(word == "INVALID" for _, word in others),
    ]
