"""From the parts of a sweep to its legs: the grid in product order, then the controls.

The last axis is the fastest. `only` keeps some points of the product and does not change their order.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanochat.config import ConfigError, TrainConfig, digest, field_paths, get_field, with_overrides
from sweeps.spec.errors import SweepError
from sweeps.spec.names import check_name, slug
from sweeps.spec.parts import Axis, Control

Role = Literal["baseline", "candidate", "grid", "control"]


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One complete configuration of a sweep. The id names it; two legs are equal when their configs' digests are."""

    name: str
    id: str
    role: Role
    overrides: dict[str, Any]
    config: TrainConfig


def grid(axes: Sequence[Axis], only: Sequence[tuple[Any, ...]] | None = None) -> list[dict[str, Any]]:
    """The overrides of every grid point, in order."""
    points = list(itertools.product(*(axis.values for axis in axes)))
    if only is not None:
        for index, point in enumerate(only):
            if point not in points:
                shape = ", ".join(axis.path for axis in axes)
                raise SweepError(f"`only` names {point!r}, which is no point of the grid ({shape})")
            if point in only[:index]:
                raise SweepError(f"`only` names {point!r} twice")
        points = [point for point in points if point in only]
    return [dict(zip((axis.path for axis in axes), point, strict=True)) for point in points]


def difference(config: TrainConfig, base: TrainConfig) -> dict[str, Any]:
    """The fields of `config` that differ from `base`."""
    pairs = ((path, get_field(config, path)) for path in field_paths())
    return {path: value for path, value in pairs if value != get_field(base, path)}


def pick(what: str, choice: Mapping[str, Any], points: Sequence[dict[str, Any]]) -> int:
    """The index of the one grid point that a choice of axis values means."""
    found = [i for i, point in enumerate(points) if all(k in point and point[k] == v for k, v in choice.items())]
    if len(found) != 1:
        raise SweepError(f"{what} {dict(choice)} must mean exactly one leg of the grid, it means {len(found)}")
    return found[0]


def expand(
    base: TrainConfig,
    points: Sequence[dict[str, Any]],
    controls: Sequence[Control],
    roles: Mapping[int, Role],
    leg_name: Callable[[TrainConfig], str] | None,
) -> tuple[Leg, ...]:
    """All legs, checked: every config can be, no two legs share a name or a config."""
    legs = [_leg(base, point, roles.get(index, "grid"), leg_name, None) for index, point in enumerate(points)]
    legs += [_leg(base, dict(c.overrides), "control", leg_name, c.name) for c in controls]
    by_name: dict[str, Leg] = {}
    by_digest: dict[str, Leg] = {}
    for leg in legs:
        if leg.name in by_name:
            raise SweepError(f"two legs are named {leg.name}: {by_name[leg.name].overrides} and {leg.overrides}")
        twin = by_digest.setdefault(digest(leg.config), leg)
        if twin is not leg:
            raise SweepError(f"legs {twin.name} and {leg.name} are the same run: their configs are equal")
        by_name[leg.name] = leg
    return tuple(legs)


def _leg(
    base: TrainConfig,
    overrides: dict[str, Any],
    role: Role,
    leg_name: Callable[[TrainConfig], str] | None,
    fixed_name: str | None,
) -> Leg:
    try:
        config = with_overrides(base, overrides)
    except ConfigError as error:
        raise SweepError(f"leg {slug(overrides)}: {error}") from None
    name = fixed_name or (_named(leg_name, config, overrides) if leg_name else slug(overrides))
    check_name("leg", name)
    leg_id = f"{name}-{digest(difference(config, base))[:8]}"
    return Leg(name=name, id=leg_id, role=role, overrides=overrides, config=config)


def _named(leg_name: Callable[[TrainConfig], str], config: TrainConfig, overrides: dict[str, Any]) -> str:
    """What the sweep's own function says; it runs again for each preset and setting."""
    try:
        return leg_name(config)
    except Exception as error:
        raise SweepError(f"leg {slug(overrides)}: leg_name raised {type(error).__name__}: {error}") from error
