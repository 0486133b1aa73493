"""Which legs a figure shows when there are many, and what it calls them."""

from collections.abc import Sequence

from sweeps.results.decisions.judgement import Judgement
from sweeps.results.measures.snapshot import Snapshot
from sweeps.spec.legs import Leg
from sweeps.spec.visible import visible
from sweeps.spec.words import counted

MOST_ROWS = 12  # of a figure with a row per leg
_SHORT = 26


def leading_legs(snapshot: Snapshot, judgement: Judgement, most: int) -> list[Leg]:
    """The baseline, the candidate, then the fastest legs, in plan order; all of them if they are few.

    One control is kept too, the fastest one. A leg without a speed comes after those that have one.
    """
    legs = snapshot.plan.legs
    if len(legs) <= most:
        return list(legs)
    speeds = {verdict.leg.name: verdict.finding.ratio for verdict in judgement.legs}

    def rank(leg: Leg) -> tuple[bool, float]:
        ratio = speeds.get(leg.name)
        return ratio is None, -(ratio or 0.0)

    ranked = sorted(legs, key=rank)
    controls = [leg for leg in ranked if leg.role == "control"][:1]
    kept = [leg for leg in legs if leg.role in ("baseline", "candidate")] + controls
    kept += [leg for leg in ranked if leg not in kept][: max(0, most - len(kept))]
    return [leg for leg in legs if leg in kept]


def left_out(snapshot: Snapshot, shown: Sequence[Leg]) -> str:
    """A sentence on the legs that a figure does not show; "" if it shows all."""
    number = len(snapshot.plan.legs) - len(shown)
    if not number:
        return ""
    return f" {counted(number, 'further leg')} {'is' if number == 1 else 'are'} in the tables."


def labels_of(legs: Sequence[Leg], most_chars: int = _SHORT) -> dict[str, str]:
    """A short text for each leg's name, different for different legs; a long name loses its middle."""
    names = [visible(leg.name) for leg in legs]
    grid = [name for leg, name in zip(legs, names, strict=True) if leg.role != "control" and len(name) > most_chars]
    common = _common_start(grid)
    labels = {
        leg.name: _cut(_without(name, common, most_chars), most_chars) for leg, name in zip(legs, names, strict=True)
    }
    seen = list(labels.values())
    return {
        name: label if seen.count(label) == 1 else f"{_cut(visible(name), most_chars - 4)} #{place}"
        for place, (name, label) in enumerate(labels.items(), start=1)
    }


def _common_start(names: Sequence[str]) -> str:
    """What long names begin with alike, up to a separator."""
    first, last = (min(names), max(names)) if len(names) > 1 else ("", "")
    start = first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]
    return start[: max(start.rfind(mark) for mark in "_-.") + 1]


def _without(name: str, start: str, most_chars: int) -> str:
    is_long = start and len(name) > most_chars and name.startswith(start)
    return f"…{name[len(start) :]}" if is_long else name


def _cut(name: str, most_chars: int) -> str:
    if len(name) <= most_chars:
        return name
    half = (most_chars - 1) // 2
    return f"{name[: most_chars - 1 - half]}…{name[-half:]}"
