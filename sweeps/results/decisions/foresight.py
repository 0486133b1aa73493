"""What a plan asks and what its blocks can answer, before anything has run: gates in words, the smallest effect, cost.

The smallest effect is what a contrast must exceed at the look after the last block if runs vary by no more than the
floor. Runs that vary more need a larger one, which `plan` cannot know.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.records.documents import Calibration
from sweeps.results.decisions.boundaries import FIRST_LOOK
from sweeps.results.decisions.reach import floor_in_words, floor_of, smallest_effect
from sweeps.results.measures.cost import Cost
from sweeps.spec.duration import in_words
from sweeps.spec.metrics import METRIC
from sweeps.spec.parts import Gate
from sweeps.spec.plan import Plan
from sweeps.spec.words import counted, percent_change

_SIGNS = "+\N{MINUS SIGN}"
_ANY_CHANGE = 2.0  # no plan is for a larger one


@dataclass(frozen=True, kw_only=True)
class Foresight:
    """All that can be said of a plan before it runs."""

    plan: Plan
    calibration: Calibration | None
    stale_calibrations: Sequence[str]
    cost: Cost
    adds_blocks: bool = False  # until the gates are decided, up to the plan's maximum

    @property
    def floor_sd(self) -> float:
        """The spread between runs that is reckoned with, of ln(dt)."""
        return floor_of(self.calibration)

    def smallest_effect(self, num_blocks: int) -> float | None:
        """The smallest ratio above 1 that so many blocks can decide; None before the first look, or with one leg."""
        if not self.can_compare:
            return None
        num_legs = len(self.plan.family)
        return smallest_effect(num_legs, num_blocks, self.plan.max_blocks, self.floor_sd, len(self._running))

    @property
    def can_compare(self) -> bool:
        """True if the baseline and another leg run."""
        return len(self._running) > 1 and self.plan.baseline.name in self._running

    @property
    def _running(self) -> set[str]:
        return {trial.leg.name for trial in self.plan.trials}


def gate_sentence(gate: Gate, plan: Plan) -> str:
    """One gate as a person says it: `tok/s of cap1 is better than that of cap0`."""
    metric = METRIC[gate.metric]
    candidate = plan.candidate.name if plan.candidate is not None else "the candidate"
    reference = plan.baseline.name if gate.reference == "baseline" else gate.reference
    if gate.improves is not None:
        return f"{metric.label} of {candidate} is better than that of {reference}"
    sense, number = ("at most", gate.at_most) if gate.at_most is not None else ("at least", gate.at_least)
    assert number is not None, "a gate has exactly one bound"
    if reference is None:
        return f"{metric.label} of {candidate} is {sense} {number:g} {metric.unit}".rstrip()
    return f"{metric.label} of {candidate} is {_bound_in_words(sense, number)} that of {reference}"


def _bound_in_words(sense: str, ratio: float) -> str:
    """At most 1.05 is `at most 5.0 % above`, at least 0.8 `at most 20.0 % below`, a bound of 1 `at most`."""
    if ratio == 1:
        return sense
    change = percent_change(ratio).lstrip(_SIGNS)
    turned = sense if ratio > 1 else {"at most": "at least", "at least": "at most"}[sense]
    return f"{turned} {change} {'above' if ratio > 1 else 'below'}"


def lines_of(foresight: Foresight) -> list[str]:
    """What `plan` prints below the legs."""
    return [*_gate_lines(foresight.plan), *_effect_lines(foresight), *_cost_lines(foresight)]


def as_json(foresight: Foresight) -> dict[str, Any]:
    """The same as values; null for what is not known."""
    plan, cost = foresight.plan, foresight.cost
    effects = {blocks: foresight.smallest_effect(blocks) for blocks in _looks(plan)}
    return {
        "max_blocks": plan.max_blocks,
        "gates": [
            {
                "metric": gate.metric,
                "reference": gate.reference,
                "improves": gate.improves is not None,
                "at_most": gate.at_most,
                "at_least": gate.at_least,
                "words": gate_sentence(gate, plan),
            }
            for gate in plan.gates
        ],
        "floor_sd": foresight.floor_sd,
        "calibration": foresight.calibration.experiment if foresight.calibration is not None else None,
        "stale_calibrations": list(foresight.stale_calibrations),
        "smallest_effect_pct": _pct(foresight.smallest_effect(plan.num_blocks)),
        "smallest_effect_pct_by_blocks": {str(blocks): _pct(ratio) for blocks, ratio in effects.items()},
        "cost": {
            "minutes": cost.seconds / 60 if cost.seconds is not None else None,
            "gpu_hours": cost.gpu_hours,
            "disk_gib": cost.disk_bytes / 2**30,
            "legs": [
                {
                    "leg": leg,
                    "trials": cost.num_trials_of_leg[leg],
                    "seconds_per_trial": time.seconds if time is not None else None,
                    "source": time.source if time is not None else None,
                    "steps_alone": time.is_steps_alone if time is not None else None,
                    "card": time.card if time is not None else None,
                }
                for leg, time in cost.of_leg.items()
            ],
        },
    }


def _looks(plan: Plan) -> range:
    return range(FIRST_LOOK, plan.max_blocks + 1)


def _pct(ratio: float | None) -> float | None:
    return None if ratio is None or math.isinf(ratio) else (ratio - 1) * 100


def _gate_lines(plan: Plan) -> list[str]:
    if not plan.gates:
        return ["gates: none; the legs are compared with the baseline in tok/s"]
    return ["gates:", *(f"  {gate_sentence(gate, plan)}" for gate in plan.gates)]


def _effect_lines(foresight: Foresight) -> list[str]:
    plan = foresight.plan
    if not foresight.can_compare:
        return ["smallest effect: nothing to compare, that takes the baseline and another leg"]
    by_blocks = [(blocks, _plus_minus(foresight.smallest_effect(blocks))) for blocks in _looks(plan)]
    planned = foresight.smallest_effect(plan.num_blocks)
    if planned is None:
        lead = (
            f"smallest effect: {counted(plan.num_blocks, 'block')} can decide none, and what is measured is advice; "
            f"a verdict takes at least {FIRST_LOOK} (--blocks {FIRST_LOOK}, or auto)"
        )
    else:
        lead = f"smallest effect that {counted(plan.num_blocks, 'block')} can decide: {_plus_minus(planned)} tok/s"
    return [
        lead,
        f"  with {', '.join(f'{blocks} blocks {text}' for blocks, text in by_blocks)}",
        f"  at best: floor {floor_in_words(foresight.floor_sd, foresight.calibration)}",
        *(f"  not used: {reason}" for reason in foresight.stale_calibrations),
    ]


def _plus_minus(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    if ratio > _ANY_CHANGE:
        return f"over {percent_change(_ANY_CHANGE).removeprefix('+')}"
    change = percent_change(ratio)
    return change.replace("+", "\N{PLUS-MINUS SIGN}")


def _cost_lines(foresight: Foresight) -> list[str]:
    cost, plan = foresight.cost, foresight.plan
    disk = f"up to {_size(cost.disk_bytes)} of checkpoints"
    if cost.seconds is not None:
        known = [time for time in cost.of_leg.values() if time is not None]
        gpu = f", {cost.gpu_hours:.3g} GPU-hours" if cost.gpu_hours is not None else ""
        alone = "; the steps alone, without start, compilation and saves" if known[0].is_steps_alone else ""
        grows = ""
        if foresight.adds_blocks and plan.max_blocks > plan.num_blocks:
            most = in_words(cost.seconds * plan.max_blocks / plan.num_blocks)
            grows = f" for {plan.num_blocks} blocks, {most} for {plan.max_blocks}"
        return [f"cost: about {in_words(cost.seconds)}{grows}{gpu}, {disk} ({_sources(cost)}{alone})"]
    if len(cost.unknown) == len(cost.of_leg):
        why = f"no earlier run of these configs on {counted(cost.num_workers, 'worker')}; say how fast: --tok-per-sec N"
        return [f"cost: time unknown ({why}), {disk}"]
    sure = sum(time.seconds * cost.num_trials_of_leg[leg] for leg, time in cost.of_leg.items() if time is not None)
    unknown = f"{', '.join(cost.unknown[:3])}{', ...' if len(cost.unknown) > 3 else ''} unknown"
    return [f"cost: more than {in_words(sure)} ({_sources(cost)}; {unknown}), {disk}"]


def _sources(cost: Cost) -> str:
    known = [time for time in cost.of_leg.values() if time is not None]
    sources = {time.source: time for time in known}
    texts = [
        f"at {name}" if time.is_steps_alone else f"as in {name}" + (f" on {time.card}" if time.card else "")
        for name, time in sources.items()
    ]
    return ", ".join(texts[:3])


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.0f} MiB"
