"""The order in which many legs are listed: what a reader looks for first, then the fastest."""

from sweeps.results.decisions.judgement import Judgement
from sweeps.results.measures.snapshot import Snapshot
from sweeps.spec.legs import Leg

MANY_LEGS = 12
"""Up to so many legs stay in the order of the plan."""


def ranked_legs(snapshot: Snapshot, judgement: Judgement) -> list[Leg]:
    """The baseline, the candidate, the fastest control, then all others by speed; few legs in plan order.

    A leg without a speed comes after those that have one.
    """
    legs = list(snapshot.plan.legs)
    if len(legs) <= MANY_LEGS:
        return legs
    speeds = {verdict.leg.name: verdict.finding.ratio for verdict in judgement.legs}

    def by_speed(leg: Leg) -> tuple[bool, float]:
        ratio = speeds.get(leg.name)
        return ratio is None, -(ratio or 0.0)

    ranked = sorted(legs, key=by_speed)
    first = [leg for role in ("baseline", "candidate") for leg in legs if leg.role == role]
    first += [leg for leg in ranked if leg.role == "control"][:1]
    return [*first, *(leg for leg in ranked if leg not in first)]
