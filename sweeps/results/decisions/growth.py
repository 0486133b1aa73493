"""Whether one more block is worth running: while something is undecided, blocks are left, and a block can decide."""

from sweeps.results.decisions.boundaries import FIRST_LOOK
from sweeps.results.decisions.judgement import Judgement, judge
from sweeps.results.measures.snapshot import Snapshot


def blocks_wanted(snapshot: Snapshot) -> int:
    """How many blocks the experiment should have in all: as many as it has if another one would tell nothing."""
    plan, judgement = snapshot.plan, judge(snapshot)
    if plan.num_blocks < FIRST_LOOK <= plan.max_blocks:
        return FIRST_LOOK if _can_decide(snapshot) else plan.num_blocks
    if judgement.num_complete < plan.num_blocks or plan.num_blocks >= plan.max_blocks:
        return plan.num_blocks
    return plan.num_blocks + (1 if _is_open(judgement) and _can_decide(snapshot) else 0)


def _is_open(judgement: Judgement) -> bool:
    """True if a gate is undecided for lack of blocks, or a leg if there are no gates."""
    if judgement.outcome == "FAIL":
        return False
    words = [verdict.word for verdict in (judgement.gates or judgement.legs)]
    return "INCONCLUSIVE" in words


def _can_decide(snapshot: Snapshot) -> bool:
    """True if, in the last block, the baseline and what is compared with it have numbers; failures would repeat."""
    last = [trial for trial in snapshot.trials if trial.trial.block == snapshot.plan.num_blocks]
    done = {trial.trial.leg.name for trial in last if trial.state == "completed" and not trial.fell_back}
    candidate = snapshot.plan.candidate
    legs = {leg.name for leg in snapshot.plan.legs} - _baseline(snapshot)
    others = legs if candidate is None else {candidate.name}
    return _baseline(snapshot) <= done and bool(others & done)


def _baseline(snapshot: Snapshot) -> set[str]:
    return {snapshot.plan.baseline.name}
