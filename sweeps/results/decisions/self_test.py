"""How often verdicts would be wrong on the noise of one experiment: simulated with the functions that judge it.

The noise is what the experiment shows: how much runs differ once blocks and legs are taken out, how steps of a run
vary and follow each other, spikes, and drift from block to block. What is true is then set by hand, many times: legs
that are equal, one that is noisier, a baseline that is, and one that is 1 % faster.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev
from typing import Any

import numpy as np

from sweeps.results.decisions.boundaries import ALPHA
from sweeps.results.decisions.contrasts import Floats, contrasts
from sweeps.results.decisions.judgement import Judgement, judge, speed_table
from sweeps.results.decisions.looks import EQUIVALENCE_ALPHA
from sweeps.results.decisions.simulation import Noise, Rates, World, rates
from sweeps.results.decisions.student import binomial_lower_limit
from sweeps.results.measures.snapshot import Snapshot
from sweeps.spec.errors import GateFailed, GateUndecided

DEFAULT_EXPERIMENTS = 500
NOISIER_BOUND, NOISY_BASELINE_BOUND = 0.015, 0.03
_EFFECT = -math.log(1.01)  # of ln(dt): a leg that is 1 % faster
_SURE = 0.01  # a bound counts as exceeded if chance alone would show as much this rarely
_SPIKE = math.log(1.25)


@dataclass(frozen=True, kw_only=True)
class ErrorRate:
    """One error rate of many simulated experiments."""

    what: str
    rate: float
    bound: float | None  # None: no error, shown to be known
    num_experiments: int

    @property
    def holds(self) -> bool:
        """False if the rate lies above its bound by more than chance explains."""
        if self.bound is None:
            return True
        return binomial_lower_limit(round(self.rate * self.num_experiments), self.num_experiments, _SURE) <= self.bound


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """The error rates on an experiment's own noise."""

    experiment: str
    noise: Noise
    floor_sd: float
    num_legs: int
    max_blocks: int
    checks: tuple[ErrorRate, ...]
    mean_blocks: float  # until a leg that is 1 % faster and all others are decided

    @property
    def exit_code(self) -> int:
        """0 if every rate holds, else that of a failed gate."""
        return 0 if all(check.holds for check in self.checks) else GateFailed.exit_code


def self_test(snapshot: Snapshot, num_experiments: int = DEFAULT_EXPERIMENTS) -> SelfTest:
    """Simulates. Raises GateUndecided if the experiment does not yet show how much runs differ."""
    judgement = judge(snapshot)
    noise, num_legs = noise_of(snapshot, judgement), len(snapshot.plan.family)

    def simulate(effects: Sequence[float], scale: Sequence[float]) -> Rates:
        return rates(
            World(noise=noise, effects=effects, scale=scale),
            num_experiments=num_experiments,
            max_blocks=judgement.max_blocks,
            floor_sd=judgement.floor_sd,
        )

    none, same = [0.0] * num_legs, [1.0] * num_legs
    equal, faster = simulate(none, same), simulate([0.0, _EFFECT, *none[2:]], same)
    noisier, noisy_baseline = simulate(none, [1.0, 2.0, *same[2:]]), simulate(none, [2.0, *same[1:]])
    results = [
        ("equal legs, one called different", equal.wrong, ALPHA),
        ("one leg of twice the spread, one called different", noisier.wrong, NOISIER_BOUND),
        ("a baseline of twice the spread, one called different", noisy_baseline.wrong, NOISY_BASELINE_BOUND),
        ("a leg 1 % faster, called equivalent", faster.wrongly_equivalent, EQUIVALENCE_ALPHA),
        ("a leg 1 % faster, found", faster.found, None),
        ("equal legs, all called equivalent", equal.equivalent, None),
    ]
    return SelfTest(
        experiment=snapshot.manifest.id,
        noise=noise,
        floor_sd=judgement.floor_sd,
        num_legs=num_legs,
        max_blocks=judgement.max_blocks,
        checks=tuple(
            ErrorRate(what=what, rate=rate, bound=bound, num_experiments=num_experiments)
            for what, rate, bound in results
        ),
        mean_blocks=faster.mean_blocks,
    )


def noise_of(snapshot: Snapshot, judgement: Judgement) -> Noise:
    """The noise that an experiment shows. Raises GateUndecided for one with a single leg or too few timed blocks."""
    values = speed_table(snapshot, judgement.floor_sd)  # (R, K), of ln(tok/s): the spread is that of ln(dt)
    found = contrasts(values, 0, 0.0) if values.size else None
    pooled = _pooled_sd(values) if found is not None and float(found.df) > 0 else math.nan
    windows = [trial.window.floats("dt_ms") for trial in snapshot.trials if len(trial.window) > 2]
    if not math.isfinite(pooled) or not windows or len(snapshot.plan.family) < 2:
        raise GateUndecided(
            f"{snapshot.manifest.id} does not show yet how much runs differ: that takes two legs that are timed in the "
            f"same two blocks; add some with `nanochat-sweep restore {snapshot.manifest.id} --blocks 3`"
        )
    steps = [_within(np.log(window)) for window in windows]
    step_sd, phi = median(sd for sd, _, _ in steps), min(0.95, max(0.0, median(phi for _, phi, _ in steps)))
    num_steps = snapshot.plan.window_steps
    of_steps = step_sd**2 / num_steps * (1 + phi) / (1 - phi)
    rows: list[Floats] = [row for row in values if np.isfinite(row).any()]
    blocks = [float(np.nanmean(row)) for row in rows]
    drift = float(np.polyfit(range(len(blocks)), blocks, 1)[0]) if len(blocks) > 1 else 0.0
    return Noise(
        run_sd=math.sqrt(max(0.0, pooled**2 - of_steps)),
        step_sd=step_sd,
        phi=phi,
        spike_rate=fmean(spikes for _, _, spikes in steps),
        block_sd=pstdev(blocks),
        drift_per_block=drift,
        num_steps=num_steps,
    )


def _pooled_sd(values: Floats) -> float:
    """The spread of a run once its leg and its block are taken out."""
    found = contrasts(values, 0, 0.0)
    residual = values - np.nanmean(values, axis=1, keepdims=True)
    residual = residual - np.nanmean(residual, axis=0, keepdims=True)
    return math.sqrt(float(np.nansum(residual**2)) / float(found.df))


def _within(logs: Floats) -> tuple[float, float, float]:
    """Of the steps of one run: sd and lag-1 correlation without spikes, and the share of spikes."""
    centred = logs - np.median(logs)
    is_spike = centred > _SPIKE
    calm = np.where(is_spike, 0.0, centred)
    calm = calm - calm.mean()
    power = float((calm**2).sum())
    phi = float((calm[1:] * calm[:-1]).sum()) / power if power > 0 else 0.0
    return float(calm.std()), phi, float(is_spike.mean())


def self_test_json(found: SelfTest) -> dict[str, Any]:
    """All numbers."""
    return {
        "schema": "nanochat-sweep/self-test/1",
        "experiment": found.experiment,
        "exit_code": found.exit_code,
        "legs": found.num_legs,
        "max_blocks": found.max_blocks,
        "floor_sd": found.floor_sd,
        "noise": vars(found.noise),
        "mean_blocks": found.mean_blocks,
        "checks": [{**vars(check), "holds": check.holds} for check in found.checks],
    }


def self_test_lines(found: SelfTest) -> list[str]:
    """One line for the noise, one for each rate."""
    noise = found.noise
    number = found.checks[0].num_experiments
    lines = [
        f"{number:,} simulated experiments each: {found.num_legs} legs, up to {found.max_blocks} blocks, floor "
        f"{found.floor_sd * 100:.2g} %",
        f"noise of {found.experiment}: {noise.run_sd * 100:.2g} % between runs, {noise.step_sd * 100:.2g} % between "
        f"steps (correlation {noise.phi:.2f}), {noise.spike_rate * 100:.2g} % spikes, {noise.block_sd * 100:.2g} % "
        f"between blocks",
    ]
    for check in found.checks:
        bound = "" if check.bound is None else f" (bound {check.bound * 100:g} %{'' if check.holds else ': EXCEEDED'})"
        lines.append(f"{check.what}: {check.rate * 100:.1f} %{bound}")
    lines.append(f"blocks until all is decided, with a leg 1 % faster: {found.mean_blocks:.1f} on average")
    return lines
