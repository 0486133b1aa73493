"""Whether one more block is worth running: while something is undecided, blocks are left, and a block can decide."""

from sweeps.results.decisions.boundaries import FIRST_LOOK
from sweeps.results.decisions.judgement import Judgement, judge
from sweeps.results.measures.snapshot import Snapshot


def blocks_wanted(snapshot: Snapshot, ahead: int = 1) -> int:
    """How many blocks the experiment should have in all: as many as it has if another one would tell nothing.

    `ahead`: how many there may be beyond those that are complete, counted from the first on; more than 1 where blocks
    run side by side. What is decided is decided by the complete ones alone.
    """
    plan, judgement = snapshot.plan, judge(snapshot)
    if plan.num_blocks < FIRST_LOOK <= plan.max_blocks:
        return FIRST_LOOK if _can_decide(snapshot, plan.num_blocks) else plan.num_blocks
    if judgement.num_complete + ahead <= plan.num_blocks or plan.num_blocks >= plan.max_blocks:
        return plan.num_blocks
    can_decide = judgement.num_complete == 0 or _can_decide(snapshot, judgement.num_complete)
    return plan.num_blocks + (1 if _is_open(judgement) and can_decide else 0)


def _is_open(judgement: Judgement) -> bool:
    """True if a gate is undecided for lack of blocks, or a leg if there are no gates."""
    if judgement.outcome == "FAIL":
        return False
    words = [verdict.word for verdict in (judgement.gates or judgement.legs)]
    return "INCONCLUSIVE" in words


def _can_decide(snapshot: Snapshot, block: int) -> bool:
    """True if, in a block, the baseline and what is compared with it have numbers; failures would repeat."""
    last = [trial for trial in snapshot.trials if trial.trial.block == block]
    done = {trial.trial.leg.name for trial in last if trial.state == "completed" and not trial.fell_back}
    candidate = snapshot.plan.candidate
    legs = {leg.name for leg in snapshot.plan.legs} - _baseline(snapshot)
    others = legs if candidate is None else {candidate.name}
    return _baseline(snapshot) <= done and bool(others & done)


def _baseline(snapshot: Snapshot) -> set[str]:
    return {snapshot.plan.baseline.name}
