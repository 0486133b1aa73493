"""The plan of a calibration: one leg twice in every block, outside the rule that equal configs are one run.

The twins differ in their names alone, so what is seen between them is what runs of one leg differ by. A delay that is
injected into the second twin shows whether a difference of that size is found.
"""

from dataclasses import replace

from nanochat.config import ConfigError, digest, with_overrides
from sweeps.spec.errors import SweepError
from sweeps.spec.legs import Leg
from sweeps.spec.names import MAX_NAME, nearest
from sweeps.spec.plan import Plan, make_plan_of_legs
from sweeps.spec.sweep import Sweep

TWIN_SUFFIX = "-twin"


def twin_plan(sweep: Sweep, leg_name: str | None, num_blocks: int, max_blocks: int, inject_pct: float) -> Plan:
    """The plan that runs a leg of the sweep, its baseline without a name, and its twin.

    Raises SweepError for a leg that is none, and for numbers that cannot be.
    """
    leg = _chosen(sweep, leg_name)
    fields = {"run.inject_pct": inject_pct} if inject_pct else {}
    try:
        config = with_overrides(leg.config, fields)
    except ConfigError as error:
        raise SweepError(f"--inject-pct: {error}") from None
    name = f"{leg.name[: MAX_NAME - len(TWIN_SUFFIX)]}{TWIN_SUFFIX}"
    twin = Leg(
        name=name,
        id=f"{name}-{digest(fields)[:8]}",
        role="candidate",
        overrides={**leg.overrides, **fields},
        config=config,
    )
    question = f"How much do runs of {leg.name} differ?"
    if inject_pct:
        question = f"Is a delay of {inject_pct:g} % found in {leg.name}?"
    legs = (replace(leg, role="baseline"), twin)
    plan = make_plan_of_legs(replace(sweep, gates=()), legs, num_blocks, max_blocks)
    return replace(plan, question=question)


def _chosen(sweep: Sweep, name: str | None) -> Leg:
    if name is None:
        return next(leg for leg in sweep.legs if leg.role == "baseline")
    known = [leg.name for leg in sweep.legs]
    if name not in known:
        raise SweepError(f"there is no leg {name!r}{nearest(name, known)}; legs: {', '.join(known)}")
    return next(leg for leg in sweep.legs if leg.name == name)
