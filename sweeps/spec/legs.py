"""From the parts of a sweep to its legs: the grid in product order, then the controls.

The last axis is the fastest. `only` keeps some points of the product and does not change their order.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from nanochat.config import (
    ConfigError,
    TrainConfig,
    digest,
    field_paths,
    get_field,
    is_section,
    section_type,
    with_overrides,
)
from nanochat.values import plain, shown
from sweeps.spec.errors import SweepError
from sweeps.spec.names import check_name, nearest, slug, with_digest
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
                raise SweepError(
                    f"`only` names {shown(point)}, which is no point of the grid ({shape}){_misfits(point, axes)}"
                )
            if point in only[:index]:
                raise SweepError(f"`only` names {shown(point)} twice")
        points = [point for point in points if point in only]
    return [dict(zip((axis.path for axis in axes), point, strict=True)) for point in points]


def difference(config: TrainConfig, base: TrainConfig) -> dict[str, Any]:
    """The fields of `config` that differ from `base`."""
    pairs = ((path, get_field(config, path)) for path in field_paths())
    return {path: value for path, value in pairs if value != get_field(base, path)}


def _misfits(point: Sequence[Any], axes: Sequence[Axis]) -> str:
    """A hint to append to an error: which parts of a point are no values of their axes."""
    if len(point) != len(axes):
        return f": it has {len(point)} values for {len(axes)} axes"
    return "".join(_no_value(axis, value) for axis, value in zip(axes, point, strict=True) if value not in axis.values)


def _no_value(axis: Axis, value: Any) -> str:
    hint = nearest(shown(value), [shown(v) for v in axis.values])
    return f"; axis {axis.path} has no value {shown(value)}{hint}"


def point_index(what: str, choice: Mapping[str, Any], axes: Sequence[Axis], points: Sequence[dict[str, Any]]) -> int:
    """The index of the one grid point that a choice of axis values means."""
    by_path = {axis.path: axis for axis in axes}
    for path, value in choice.items():
        if path not in by_path:
            hint = f"{nearest(path, by_path)}; axes: {', '.join(by_path) or 'none'}"
            raise SweepError(f"{what} names {path!r}, which is not an axis of this sweep{hint}")
        if value not in by_path[path].values:
            raise SweepError(f"{what} is no leg of the grid{_no_value(by_path[path], value)}")
    found = [i for i, point in enumerate(points) if all(k in point and point[k] == v for k, v in choice.items())]
    if len(found) != 1:
        names = ", ".join(slug(_stored(points[i])) for i in found[:4]) + (", ..." if len(found) > 4 else "")
        raise SweepError(
            f"{what} {shown(dict(choice))} must mean exactly one leg of the grid, it means {len(found)}"
            + (f" ({names}); name a value of each axis" if found else "; `only` leaves it out")
        )
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
    if leg_name is None:
        legs = _told_apart(legs, {c.name for c in controls})
    by_name: dict[str, Leg] = {}
    by_digest: dict[str, Leg] = {}
    for leg in legs:
        if leg.name in by_name:
            both = f"{shown(by_name[leg.name].overrides)} and {shown(leg.overrides)}"
            raise SweepError(f"two legs are named {leg.name}: {both}")
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
        raise SweepError(f"leg {slug(_stored(overrides))}: {error}") from None
    overrides = _stored(overrides)
    name = fixed_name or (_named(leg_name, config, overrides) if leg_name else slug(overrides))
    check_name("leg", name)
    leg_id = f"{name}-{digest(difference(config, base))[:8]}"
    return Leg(name=name, id=leg_id, role=role, overrides=overrides, config=config)


def _stored(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides in JSON's own kinds; of a whole section, the fields that differ from its defaults."""
    return {path: _differing(path, value) if is_section(path) else plain(value) for path, value in overrides.items()}


def _differing(section: str, value: Any) -> Any:
    body = plain(value)
    if not isinstance(body, dict):
        return body
    defaults: dict[str, Any] = plain(section_type(section)())
    return {k: v for k, v in cast(dict[str, Any], body).items() if k not in defaults or v != defaults[k]}


def _told_apart(legs: Sequence[Leg], given: Collection[str | None]) -> list[Leg]:
    """Legs whose default names are equal, as those of the folders A/b and a-b are, get a digest in their names."""
    times = Counter(leg.name for leg in legs)

    def told_apart(leg: Leg) -> Leg:
        if times[leg.name] == 1 or (leg.role == "control" and leg.name in given):
            return leg
        name = with_digest(leg.name, leg.overrides)
        return replace(leg, name=name, id=leg.id.replace(leg.name, name, 1))

    return [told_apart(leg) for leg in legs]


def _named(leg_name: Callable[[TrainConfig], str], config: TrainConfig, overrides: dict[str, Any]) -> str:
    """What the sweep's own function says; it runs again for each preset and setting."""
    try:
        return leg_name(config)
    except Exception as error:
        raise SweepError(f"leg {slug(overrides)}: leg_name raised {type(error).__name__}: {error}") from error
