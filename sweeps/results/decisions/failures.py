"""What must lead because runs failed or learnt nothing: a sweep of which all legs failed, a leg without a run."""

from collections import Counter
from collections.abc import Sequence

from sweeps.records.documents import COMPLETED_STATES, SETTLED_STATES
from sweeps.results.decisions.phrase import Phrase
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec.legs import Leg
from sweeps.spec.words import counted, one_line

_FAILED = ("failed", "damaged")
_MOST_SHOWN = 3


def all_failed(snapshot: Snapshot) -> tuple[Phrase, Phrase] | None:
    """The commonest cause, and where to read on, if nothing is left to run and no trial was completed."""
    failed = [trial for trial in snapshot.trials if trial.state in _FAILED]
    is_over = all(trial.state in (*_FAILED, "dropped") for trial in snapshot.trials)
    if not failed or not is_over:
        return None
    legs = list(dict.fromkeys(trial.trial.leg.name for trial in failed))
    kinds = Counter(_kind(trial) for trial in failed)
    commonest, _ = kinds.most_common(1)[0]
    first = next(trial for trial in failed if _kind(trial) == commonest)
    which = "The leg" if len(legs) == 1 else f"All {counted(len(legs), 'leg')}"
    others = "" if len(kinds) == 1 else f" ({counted(kinds[commonest], 'trial')} of {len(failed)} like this)"
    sentence: Phrase = (f"{which} failed; ", first.trial.leg, f": {cause(first)}{others}")
    return sentence, _where(snapshot, first)


def never_completed(snapshot: Snapshot, leg: Leg) -> TrialSnapshot | None:
    """A failed trial of a leg that has no completed one and none left to run."""
    trials = snapshot.of_leg(leg.name)
    if not trials or any(trial.state in COMPLETED_STATES for trial in trials):
        return None
    is_over = all(trial.state in SETTLED_STATES or trial.state == "damaged" for trial in trials)
    return next((trial for trial in trials if trial.state in _FAILED), None) if is_over else None


def leg_failed(snapshot: Snapshot, leg: Leg, trial: TrialSnapshot) -> tuple[Phrase, Phrase]:
    """The sentence for a leg that never completed, and where to read on."""
    return ("Do not use ", leg, f": it failed: {cause(trial)}"), _where(snapshot, trial)


def failed_legs(snapshot: Snapshot, but: Sequence[Leg]) -> list[Phrase]:
    """Legs with failed trials, each with its cause."""
    left_out = {leg.name for leg in but}
    found: dict[str, list[TrialSnapshot]] = {}
    for trial in snapshot.trials:
        if trial.state in _FAILED and trial.trial.leg.name not in left_out:
            found.setdefault(trial.trial.leg.name, []).append(trial)
    phrases: list[Phrase] = []
    for trials in list(found.values())[:_MOST_SHOWN]:
        num_planned = len(snapshot.of_leg(trials[0].trial.leg.name))
        how_often = "" if num_planned == 1 else f" in {len(trials)} of {counted(num_planned, 'block')}"
        phrases.append((trials[0].trial.leg, f" failed{how_often}: {cause(trials[0])}"))
    if len(found) > _MOST_SHOWN:
        phrases.append((f"{counted(len(found) - _MOST_SHOWN, 'more leg')} failed.",))
    return phrases


def cause(trial: TrialSnapshot) -> str:
    """The error of a trial's last attempt, in one line."""
    error = trial.attempts[-1].error if trial.attempts else None
    return one_line(f"{error.type}: {error.message}" if error is not None else trial.damage or "no cause is stored")


def _kind(trial: TrialSnapshot) -> str:
    error = trial.attempts[-1].error if trial.attempts else None
    return error.type if error is not None else "damage"


def _where(snapshot: Snapshot, trial: TrialSnapshot) -> Phrase:
    log = f"nanochat-sweep logs {snapshot.manifest.id} {trial.run}"
    again = f"nanochat-sweep retry {snapshot.manifest.id}"
    return (f"Its output: `{log}`. After the cause is fixed: `{again}`.",)
