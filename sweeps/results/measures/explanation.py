"""Why one leg is faster or slower than another: which phase of a step, which clocks, what compiling and the rest took.

Nothing here decides anything. It sets side by side what the rows of both legs know, each the mean over the blocks in
which both are completed, so that a difference can be followed to where it arises.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from nanochat.stats import STEP_PHASES
from nanochat.throttle import FLAG
from sweeps.results.measures.compare import blocks_of, compare_legs, why_barred
from sweeps.results.measures.conditions import kernels_of
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.time_split import PARTS, compile_seconds, time_split
from sweeps.results.measures.trial import num_recompilations
from sweeps.spec.errors import UsageError
from sweeps.spec.legs import Leg, difference
from sweeps.spec.metrics import METRIC
from sweeps.spec.names import nearest

Topic = Literal["step", "compile", "steps", "clocks", "wall"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One number of both legs. None: not measured."""

    section: Topic
    name: str
    unit: str
    leg: float | None
    against: float | None

    @property
    def change(self) -> float | None:
        """The leg's less the other's."""
        return None if self.leg is None or self.against is None else self.leg - self.against


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """All that is known of why two legs differ."""

    leg: str
    against: str
    num_blocks: int  # in which both are completed
    speed: float | None  # tok/s over the other leg's, as the verdict has it
    parts: tuple[Part, ...]
    fields: dict[str, tuple[Any, Any]]  # config fields in which they differ, each with both values
    kernels: dict[str, tuple[str | None, str | None]]  # roles with other kernels
    barred: tuple[str, ...]  # why their times must not be compared

    def part(self, section: Topic, name: str) -> Part:
        """One of the parts."""
        return next(part for part in self.parts if (part.section, part.name) == (section, name))

    @property
    def shares(self) -> list[tuple[Part, float]]:
        """The phases of a step with their share of the difference in its time, the largest first."""
        whole = self.part("step", "dt").change
        if not whole:
            return []
        phases = [part for part in self.parts if part.section == "step" and part.name != "dt"]
        known = [(part, part.change / whole) for part in phases if part.change is not None]
        return sorted(known, key=lambda pair: -pair[1])


def explain(snapshot: Snapshot, leg: str, against: str | None) -> Explanation:
    """Sets a leg against another, the baseline without a name. Raises UsageError for a leg that is none."""
    one = _leg(snapshot, leg)
    other = snapshot.plan.baseline if against is None else _leg(snapshot, against)
    if one.name == other.name:
        hint = "it is the baseline; name another leg with --against" if against is None else "name two legs"
        raise UsageError(f"{one.name} is set against itself: {hint}")
    pairs = blocks_of(snapshot, one.name, other.name)
    sides = ([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return Explanation(
        leg=one.name,
        against=other.name,
        num_blocks=len(pairs),
        speed=compare_legs(snapshot, one.name, other.name, "tok_per_sec").ratio.value,
        parts=(*_step_parts(*sides), *_other_parts(snapshot, *sides)),
        fields=_fields(snapshot, one, other),
        kernels=_kernels(*sides),
        barred=tuple(dict.fromkeys(text for pair in pairs for text in why_barred(METRIC["dt_ms"], *pair))),
    )


def _leg(snapshot: Snapshot, name: str) -> Leg:
    names = [leg.name for leg in snapshot.plan.legs]
    if name not in names:
        raise UsageError(f"{snapshot.manifest.id} has no leg {name!r}{nearest(name, names)}; legs: {', '.join(names)}")
    return next(leg for leg in snapshot.plan.legs if leg.name == name)


_Of = Callable[[TrialSnapshot], float | None]


def _part(
    section: Topic, name: str, unit: str, mine: Sequence[TrialSnapshot], theirs: Sequence[TrialSnapshot], of: _Of
) -> Part:
    return Part(section=section, name=name, unit=unit, leg=_mean(mine, of), against=_mean(theirs, of))


def _mean(trials: Sequence[TrialSnapshot], of: _Of) -> float | None:
    values = [value for trial in trials if (value := of(trial)) is not None and math.isfinite(value)]
    return fmean(values) if values else None


def _step_parts(mine: Sequence[TrialSnapshot], theirs: Sequence[TrialSnapshot]) -> list[Part]:
    """A counted step's time and its phases, means over the window, so that phases and the rest add up to it."""
    parts = [_part("step", "dt", "ms", mine, theirs, lambda t: _window_mean(t, "dt_ms"))]
    parts += [
        _part("step", phase, "ms", mine, theirs, lambda t, phase=phase: _window_mean(t, f"{phase}_median_ms"))
        for phase in STEP_PHASES
    ]
    parts.append(_part("step", "injected", "ms", mine, theirs, lambda t: _window_mean(t, "injected_ms")))
    parts.append(_part("step", "rest", "ms", mine, theirs, _rest_ms))
    return parts


def _window_mean(trial: TrialSnapshot, column: str) -> float | None:
    values = [value for value in trial.window.known(column) if value is not None]
    return fmean(values) if values else None


def _rest_ms(trial: TrialSnapshot) -> float | None:
    """Reading results, ranks that wait for the slowest one, and what phases do not cover."""
    whole = _window_mean(trial, "dt_ms")
    phases = [_window_mean(trial, f"{phase}_median_ms") for phase in STEP_PHASES]
    if whole is None or all(phase is None for phase in phases):
        return None
    return whole - sum(phase or 0.0 for phase in phases) - (_window_mean(trial, "injected_ms") or 0.0)


def _other_parts(snapshot: Snapshot, mine: Sequence[TrialSnapshot], theirs: Sequence[TrialSnapshot]) -> list[Part]:
    rows: list[tuple[Topic, str, str, _Of]] = [
        ("compile", "compile time", "s", lambda t: compile_seconds(t.steps)),
        ("compile", "graphs", "", lambda t: float(sum(int(n or 0) for n in t.steps.known("compiled_graphs")))),
        ("compile", "recompilations", "", lambda t: float(num_recompilations(t.steps))),
        ("compile", "first step", "s", lambda t: t.steps.floats("dt_ms")[0] / 1e3),
        ("steps", "counted", "", lambda t: float(t.measures.num_counted_steps)),
        ("steps", "not counted", "", lambda t: float(t.measures.steps_observed - t.measures.num_counted_steps)),
        ("steps", "skipped updates", "", lambda t: float(t.measures.num_skipped_steps)),
        ("steps", "dropped assignments", "%", lambda t: t.measures["dropped_pct"]),
        ("steps", "load of the fullest expert over the mean, less 1", "", lambda t: _window_mean(t, "max_vio")),
        ("clocks", "SM clock", "MHz", lambda t: _window_mean(t, "gpu_clock_mhz")),
        ("clocks", "power", "W", lambda t: _window_mean(t, "gpu_power_w")),
        ("clocks", "temperature", "C", lambda t: _window_mean(t, "gpu_temperature_c")),
        ("clocks", "throttled steps", "", lambda t: float(sum(FLAG in flags for flags in t.steps.flags))),
    ]
    parts = [_part(section, name, unit, mine, theirs, of) for section, name, unit, of in rows]
    splits = {id(trial): time_split(snapshot, trial) for trial in (*mine, *theirs)}

    def seconds(trial: TrialSnapshot, part: str) -> float | None:
        split = splits[id(trial)]
        return None if split is None else split.seconds(part)

    return parts + [_part("wall", part, "s", mine, theirs, lambda t, part=part: seconds(t, part)) for part in PARTS]


def _fields(snapshot: Snapshot, one: Leg, other: Leg) -> dict[str, tuple[Any, Any]]:
    if not (snapshot.knows_config_of(one.name) and snapshot.knows_config_of(other.name)):
        return {}
    mine, theirs = difference(one.config, other.config), difference(other.config, one.config)
    return {path: (mine.get(path), theirs.get(path)) for path in {**mine, **theirs}}


def _kernels(
    mine: Sequence[TrialSnapshot], theirs: Sequence[TrialSnapshot]
) -> dict[str, tuple[str | None, str | None]]:
    here, there = (
        kernels_of(trials[-1].measured_attempt) if trials and trials[-1].measured_attempt else {}
        for trials in (mine, theirs)
    )
    roles = sorted({*here, *there})
    return {role: (here.get(role), there.get(role)) for role in roles if here.get(role) != there.get(role)}
