"""An event as one flat JSON object, for programs that follow a launch."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from sweeps.engine.watching.events import Event, LegEvent, Place

SCHEMA = "nanochat-sweep/event/1"


def name_of(kind: type[Event]) -> str:
    """LegCompleted -> leg_completed."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", kind.__name__).lower()


def event_json(event: Event, *, experiment: str, time_utc: str) -> dict[str, Any]:
    """The event's name, its line, its trial if it has one, and its own fields."""
    own = {field.name: getattr(event, field.name) for field in fields(event)}
    place = own.pop("at", None)
    where = (
        {"trial": place.trial, "position": place.position, "num_trials": place.num_trials}
        if isinstance(place, Place)
        else {}
    )
    named = {"schema": SCHEMA, "time_utc": time_utc, "event": name_of(type(event)), "experiment": experiment}
    return named | where | {name: _plain(value) for name, value in own.items()} | {"text": str(event)}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value  # json writes a tuple as a list


_KINDS: tuple[type[Event], ...] = (*Event.__subclasses__(), *LegEvent.__subclasses__())
EVENT_NAMES = tuple(name_of(kind) for kind in _KINDS if kind is not LegEvent)
"""Every event that there is."""
