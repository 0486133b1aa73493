"""A sweep: a named definition of runs to compare. It is code, written once, and it is not a run.

Everything that can be wrong with a definition is found when it is built, before anything is launched.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from nanochat.config import TrainConfig
from nanochat.values import shown
from sweeps.spec.duration import positive_seconds
from sweeps.spec.errors import SweepError, UsageError
from sweeps.spec.legs import Leg, Role, expand, grid, point_index
from sweeps.spec.names import check_name, nearest
from sweeps.spec.parts import Axis, Control, Gate, Parallel, TailWindow, check_parallel, check_whole


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A base recipe, the axes of a grid, controls outside it, and what is measured and decided.

    `baseline` and `candidate` pick a leg by axis values; the candidate alone decides the gates. `only` restricts the
    grid to the listed points. A leg that has not ended after `leg_timeout`, "20m" or seconds, is stopped with a
    checkpoint and counts as failed. `parallel`, a number or "auto", runs blocks side by side on the nodes of a cluster;
    each has one node, where its legs run one after the other. `leg_name` names a leg from its config; without it names
    follow from the axis values. `question` is the first paragraph of the sweep file's docstring.
    """

    name: str
    base: TrainConfig
    num_workers: int
    window: TailWindow
    baseline: Mapping[str, Any]
    candidate: Mapping[str, Any] | None = None
    axes: Sequence[Axis] = ()
    only: Sequence[Any] | None = None
    controls: Sequence[Control] = ()
    gates: Sequence[Gate] = ()
    checkpoint_every: int | None = None
    leg_timeout: float | str | None = None
    parallel: Parallel = None
    leg_name: Callable[[TrainConfig], str] | None = None
    question: str = ""
    legs: tuple[Leg, ...] = field(init=False, repr=False)
    leg_timeout_s: float | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_name("sweep", self.name)
        check_whole(f"sweep {self.name}: num_workers", self.num_workers)
        if self.checkpoint_every is not None:
            check_whole(f"sweep {self.name}: checkpoint_every", self.checkpoint_every)
        check_parallel(f"sweep {self.name}: parallel", self.parallel)
        object.__setattr__(self, "leg_timeout_s", _seconds(self.name, self.leg_timeout))
        paths = [axis.path for axis in self.axes]
        for path in paths:
            if paths.count(path) > 1:
                raise SweepError(f"sweep {self.name} has two axes on {path}")
        points = grid(self.axes, None if self.only is None else [_point(point) for point in self.only])
        roles = _roles(self.baseline, self.candidate, self.axes, points)
        legs = expand(self.base, points, self.controls, roles, self.leg_name)
        object.__setattr__(self, "legs", legs)
        _check_gates(self.gates, self.candidate, [leg.name for leg in legs])
        _check_window(self.window, legs)


def _seconds(sweep: str, leg_timeout: object) -> float | None:
    try:
        return positive_seconds(f"sweep {sweep}: leg_timeout", leg_timeout)
    except UsageError as error:
        raise SweepError(str(error)) from None


def _point(given: Any) -> tuple[Any, ...]:
    """A point of `only`; with one axis its value alone will do."""
    return tuple(cast(Iterable[Any], given)) if isinstance(given, list | tuple) else (given,)


def _roles(
    baseline: Mapping[str, Any],
    candidate: Mapping[str, Any] | None,
    axes: Sequence[Axis],
    points: Sequence[dict[str, Any]],
) -> dict[int, Role]:
    roles: dict[int, Role] = {point_index("baseline", baseline, axes, points): "baseline"}
    if candidate is not None:
        index = point_index("candidate", candidate, axes, points)
        if index in roles:
            raise SweepError(f"candidate {shown(dict(candidate))} is the baseline itself; they must be two legs")
        roles[index] = "candidate"
    return roles


def _check_gates(gates: Sequence[Gate], candidate: Mapping[str, Any] | None, leg_names: list[str]) -> None:
    if gates and candidate is None:
        raise SweepError("a sweep with gates needs a candidate: the leg whose verdict decides them")
    for gate in gates:
        if gate.reference not in (None, "baseline", *leg_names):
            hint = nearest(gate.reference, ["baseline", *leg_names])
            raise SweepError(f"gate {gate.metric} compares with {gate.reference!r}, which is no leg{hint}")


def _check_window(window: TailWindow, legs: Sequence[Leg]) -> None:
    for leg in legs:
        num_steps = leg.config.schedule.num_steps
        if num_steps is not None and window.num_steps > num_steps:
            raise SweepError(
                f"the tail window of {window.num_steps} steps is longer than leg {leg.name}, which has {num_steps}"
            )
