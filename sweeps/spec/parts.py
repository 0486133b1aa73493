"""The parts that a sweep file is written with. Each checks itself when it is built.

They are plain values: what they mean together (legs, trials, verdicts) is decided elsewhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanochat.config import ConfigError, check_path
from nanochat.values import misfit, shown
from sweeps.spec.errors import SweepError
from sweeps.spec.metrics import GATE_METRICS, METRIC
from sweeps.spec.names import check_name, nearest

PLAN_OWNED = {
    "run.name": "a run is named after its trial",
    "run.seed": "every block has its own seed, shared by all legs; use more blocks",
    "run.checkpoint_every": "set Sweep.checkpoint_every, one number for all legs",
}


def _check_override(where: str, path: str) -> None:
    try:
        check_path(path, or_section=True)
    except ConfigError as error:
        raise SweepError(f"{where}: {error}") from None
    for owned, reason in PLAN_OWNED.items():
        if path in (owned, owned.partition(".")[0]):
            raise SweepError(f"{where}: {owned} cannot differ between legs: {reason}")


def check_whole(what: str, value: Any) -> None:
    """Raises SweepError unless `value` is a whole number from 1 on that 64 bits can hold."""
    if misfit(value, (int,)) or value < 1:
        raise SweepError(f"{what} must be a whole number from 1 on, got {shown(value)}")


Parallel = int | Literal["auto"] | None
"""How many blocks run at the same time, each on one node; auto: one on every free node; None: one leg at a time."""


def check_parallel(what: str, value: Any) -> None:
    """Raises SweepError unless `value` is a Parallel."""
    if value not in (None, "auto"):
        check_whole(f"{what} (unless it is 'auto')", value)


@dataclass(frozen=True)
class Axis:
    """One config field, by dotted path, or a whole section by its name, and the values it takes."""

    path: str
    values: Sequence[Any]

    def __post_init__(self) -> None:
        _check_override(f"axis {self.path!r}", self.path)
        given: Any = self.values
        values = tuple(self.values) if isinstance(given, Iterable) and not isinstance(given, str | Mapping) else ()
        if not values:
            raise SweepError(f"axis {self.path} needs a list with at least one value, got {shown(given)}")
        for index, value in enumerate(values):
            if value in values[:index]:
                raise SweepError(f"axis {self.path} lists {shown(value)} twice")
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class Control:
    """A leg outside the grid: what it changes in the base."""

    overrides: Mapping[str, Any]
    name: str | None = None

    def __post_init__(self) -> None:
        for path in self.overrides:
            _check_override(f"control {self.name or shown(dict(self.overrides))}", path)
        if self.name is not None:
            check_name("control", self.name)
        object.__setattr__(self, "overrides", dict(self.overrides))


@dataclass(frozen=True)
class Gate:
    """A bound on the candidate: it `improves` on a leg, or its ratio to the leg `versus` is `at_most` or `at_least` a
    number. A leg is "baseline" or a leg's name; with `versus=None` the number bounds the candidate's own value.
    """

    metric: str
    improves: str | None = None
    at_most: float | None = None
    versus: str | None = "baseline"
    at_least: float | None = None

    def __post_init__(self) -> None:
        if self.metric not in GATE_METRICS:
            known = f"; gates know {', '.join(GATE_METRICS)}"
            raise SweepError(f"unknown gate metric {self.metric!r}{nearest(self.metric, GATE_METRICS) or known}")
        if METRIC[self.metric].is_of_pairs and self.reference is None:
            raise SweepError(f"gate {self.metric} compares two legs; leave versus=None out")
        if [self.improves, self.at_most, self.at_least].count(None) != 2:
            raise SweepError(f"gate {self.metric} needs exactly one of improves=LEG, at_most=NUMBER, at_least=NUMBER")
        for name, bound in (("at_most", self.at_most), ("at_least", self.at_least)):
            if bound is not None and misfit(bound, (float,)):
                raise SweepError(f"gate {self.metric}: {name} is a finite number, got {shown(bound)}")
            if bound is not None and self.versus is not None and not bound > 0:
                other = "with versus=None it bounds a value"
                raise SweepError(f"gate {self.metric}: {name} is a positive ratio, got {shown(bound)}; {other}")

    @property
    def reference(self) -> str | None:
        """The leg that the candidate is held against; None for a bound on its own value."""
        return self.improves if self.improves is not None else self.versus


@dataclass(frozen=True)
class TailWindow:
    """The last counted steps of a trial, over which it is measured."""

    num_steps: int

    def __post_init__(self) -> None:
        check_whole("the tail window's num_steps", self.num_steps)
