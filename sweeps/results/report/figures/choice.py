"""Which legs a figure shows when there are many, and what it calls them."""

from collections.abc import Sequence

from sweeps.results.decisions.judgement import Judgement
from sweeps.results.decisions.ranking import MANY_LEGS, ranked_legs
from sweeps.results.measures.snapshot import Snapshot
from sweeps.spec.legs import Leg
from sweeps.spec.visible import visible
from sweeps.spec.words import counted

MOST_ROWS = MANY_LEGS  # of a figure with a row per leg
_SHORT = 26


def leading_legs(snapshot: Snapshot, judgement: Judgement, most: int) -> list[Leg]:
    """The first legs of the ranking, in plan order; all of them if they are few."""
    legs = snapshot.plan.family
    if len(legs) <= most:
        return list(legs)
    kept = ranked_legs(snapshot, judgement)
    if len(legs) <= MANY_LEGS:
        kept = sorted(kept, key=lambda leg: leg.role not in ("baseline", "candidate"))
    return [leg for leg in legs if leg in kept[:most]]


def left_out(snapshot: Snapshot, shown: Sequence[Leg]) -> str:
    """A sentence on the legs that a figure does not show; "" if it shows all."""
    number = len(snapshot.plan.family) - len(shown)
    if not number:
        return ""
    return f" {counted(number, 'further leg')} {'is' if number == 1 else 'are'} in the tables."


def labels_of(legs: Sequence[Leg], most_chars: int = _SHORT) -> dict[str, str]:
    """A short text for each leg's name, different for different legs.

    A long name of a leg of the grid gives way to the values of its axes, any other loses its middle.
    """
    names = [visible(leg.name) for leg in legs]
    labels = {leg.name: _cut(_label(leg, most_chars), most_chars) for leg in legs}
    seen = list(labels.values())
    return {
        name: label if seen.count(label) == 1 else f"{_cut(shown, most_chars - 4)} #{place}"
        for place, ((name, label), shown) in enumerate(zip(labels.items(), names, strict=True), start=1)
    }


def naming(legs: Sequence[Leg], most_chars: int = _SHORT) -> str:
    """A sentence on what the values in the labels are; "" if legs go by their names."""
    by_values = [leg for leg in legs if _label(leg, most_chars) != visible(leg.name)]
    if not by_values:
        return ""
    return f" Legs with long names go by {', '.join(path.rpartition('.')[2] for path in by_values[0].overrides)}."


def _label(leg: Leg, most_chars: int) -> str:
    name = visible(leg.name)
    if len(name) <= most_chars or leg.role == "control" or not leg.overrides:
        return name
    return visible(", ".join(value_text(value) for value in leg.overrides.values()))


def value_text(value: object) -> str:
    """The value of an axis: 0.0168 and not 0.016800000000000002."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _cut(name: str, most_chars: int) -> str:
    if len(name) <= most_chars:
        return name
    half = (most_chars - 1) // 2
    return f"{name[: most_chars - 1 - half]}…{name[-half:]}"
