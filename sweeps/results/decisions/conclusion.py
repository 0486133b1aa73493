"""The one sentence that an experiment amounts to: which leg to use, or why not, or what it takes to know.

A phrase is a sequence of texts and legs; who prints it decides how a leg's name looks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sweeps.records.documents import COMPLETED_STATES
from sweeps.results.decisions.judgement import GateVerdict, Judgement, LegVerdict, blocks_to_decide
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec.legs import Leg
from sweeps.spec.words import counted, fixed, percent_change

Phrase = tuple[str | Leg, ...]
PLAIN_NAMES = {"tok_per_sec": "tok/s", "peak_mib": "peak memory", "loss": "loss"}


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What leads: a word, a sentence, and further sentences that must not be missed."""

    word: str  # PASS, FAIL, UNDECIDED, ADVISORY, INVALID or FAILED
    sentence: Phrase
    also: tuple[Phrase, ...] = ()


def conclude(snapshot: Snapshot, judgement: Judgement) -> Conclusion:
    """The conclusion of an experiment as it stands."""
    failed = _all_failed(snapshot)
    if failed is not None:
        return failed
    candidate = snapshot.plan.candidate
    also = (*_faster_than(snapshot, judgement, candidate), *_diverged(snapshot, candidate), *_left_out(snapshot))
    if candidate is None or not judgement.gates:
        return _best_leg(snapshot, judgement, also)
    if judgement.diverged is not None:
        lost_it: Phrase = ("Do not use ", candidate, f": it diverged: {judgement.diverged}.")
        return Conclusion(word="FAIL", sentence=lost_it, also=also)
    verdict = judgement.of_leg(candidate.name)
    words = [gate.word for gate in judgement.gates]
    if judgement.outcome == "PASS":
        return Conclusion(
            word="PASS",
            sentence=("Use ", candidate, ": ", *_gates(judgement.gates), _basis(snapshot, verdict)),
            also=also,
        )
    if judgement.outcome == "FAIL":
        lost = [gate for gate in judgement.gates if gate.outcome == "FAIL"]
        rest = [gate for gate in judgement.gates if gate.outcome != "FAIL"]
        sentence: Phrase = ("Do not use ", candidate, ": ", *_gates([*lost, *rest]), _basis(snapshot, verdict))
        return Conclusion(word="FAIL", sentence=sentence, also=also)
    if "INVALID" in words:
        broken = next(gate for gate in judgement.gates if gate.word == "INVALID")
        sentence = (candidate, " cannot be judged", *_against(broken.reference), f": {broken.reason}.")
        return Conclusion(word="INVALID", sentence=sentence, also=also)
    word = "ADVISORY" if "ADVISORY" in words else "UNDECIDED"
    if not verdict.finding.num_blocks:
        missing: Phrase = (candidate, " cannot be compared yet: it or the baseline is not completed.")
        return Conclusion(word=word, sentence=missing, also=also)
    sentence = ("Not decided: ", candidate, " shows ", *_gates(judgement.gates), _basis(snapshot, verdict))
    return Conclusion(word=word, sentence=sentence, also=(_next_step(snapshot, judgement, verdict), *also))


def gate_in_words(gate: GateVerdict) -> Phrase:
    """One gate: what was measured, with its interval, and whether that is what was asked."""
    name, value = PLAIN_NAMES.get(gate.metric.name, gate.metric.label), gate_value(gate)
    if gate.gate.improves is not None:
        asked = {"PASS": "", "FAIL": " (asked: better)", "UNDECIDED": " (asked: better)"}[gate.outcome]
        small = ", small" if gate.is_small else ""
        return (f"{value} {name}", *_over(gate.reference), f"{small}{asked}")
    bound = gate_bound(gate)
    held = {"HOLDS": "within", "EXCEEDED": "past"}.get(gate.word, "not yet decided against")
    return (f"{name} {value}, {held} its bound of {bound}",)


def gate_value(gate: GateVerdict) -> str:
    """The measured change with its interval, or the value itself for a bound without a reference."""
    if gate.value is None:
        return "not measured"
    if gate.reference is None:
        return _interval(
            fixed(gate.value, gate.metric.digits), gate.low, gate.high, lambda v: fixed(v, gate.metric.digits)
        )
    return interval_of(gate.value, gate.low, gate.high)


def gate_bound(gate: GateVerdict) -> str:
    """The bound as a person writes it."""
    asked = gate.gate
    if asked.improves is not None:
        return "better"
    number = asked.at_most if asked.at_most is not None else asked.at_least
    assert number is not None
    sense = "at most" if asked.at_most is not None else "at least"
    if asked.versus is None:
        return f"{sense} {number:g} {gate.metric.unit}".rstrip()
    return f"{sense} {percent_change(number)}"


def interval_of(ratio: float | None, low: float | None, high: float | None) -> str:
    """`+2.7 % [+2.3, +3.1]`, without limits if there are none."""
    if ratio is None:
        return "-"
    return _interval(percent_change(ratio), low, high, lambda v: percent_change(v).removesuffix(" %"))


def text_of(phrase: Phrase) -> str:
    """As plain text."""
    return "".join(piece if isinstance(piece, str) else piece.name for piece in phrase)


def _interval(value: str, low: float | None, high: float | None, text: Callable[[float], str]) -> str:
    if low is None or high is None or not all(map(math.isfinite, (low, high))) or low == high:
        return value
    return f"{value} [{text(low)}, {text(high)}]"


def _gates(gates: Sequence[GateVerdict]) -> Phrase:
    words: list[str | Leg] = []
    for gate in gates:
        words += [", " if words else "", *gate_in_words(gate)]
    return tuple(words)


def _basis(snapshot: Snapshot, verdict: LegVerdict) -> str:
    """On what it rests: trials and blocks."""
    done = sum(trial.state in COMPLETED_STATES for trial in snapshot.trials)
    after = verdict.finding.decided_after
    decided = f"; decided after {counted(after, 'block')}" if after is not None else ""
    return f"; {done} of {counted(len(snapshot.trials), 'trial')}{decided}."


def _next_step(snapshot: Snapshot, judgement: Judgement, verdict: LegVerdict) -> Phrase:
    """What it takes to decide."""
    if verdict.word == "ADVISORY" and judgement.num_complete >= judgement.num_planned and judgement.num_planned < 3:
        runs = "a single run" if judgement.num_planned == 1 else counted(judgement.num_planned, "run")
        return (
            f"Each leg has {runs}, and runs of the same leg vary: `nanochat-sweep restore {snapshot.manifest.id} "
            f"--blocks auto` adds blocks until the gates are decided.",
        )
    if judgement.num_complete < judgement.num_planned:
        return (f"{judgement.num_complete} of {counted(judgement.num_planned, 'block')} are complete.",)
    if judgement.num_complete >= judgement.max_blocks:
        return (
            f"All {counted(judgement.max_blocks, 'block')} are used: the difference is too small for this many runs.",
        )
    needed = blocks_to_decide(judgement, verdict, len(snapshot.plan.legs))
    within = (
        f"about {counted(needed - judgement.num_complete, 'more block')} should decide it"
        if needed is not None
        else f"{judgement.max_blocks} blocks will probably not decide it"
    )
    return (f"At this spread {within}: `nanochat-sweep restore {snapshot.manifest.id} --blocks auto`.",)


def _best_leg(snapshot: Snapshot, judgement: Judgement, also: tuple[Phrase, ...]) -> Conclusion:
    """Without gates: the fastest leg that is better than the baseline."""
    baseline = snapshot.plan.baseline
    better = [verdict for verdict in judgement.legs if verdict.word == "IMPROVED"]
    if better:
        best = max(better, key=lambda v: v.finding.ratio or 0.0)
        value = interval_of(best.finding.ratio, best.finding.low, best.finding.high)
        sentence: Phrase = ("Fastest: ", best.leg, f", {value} tok/s over ", baseline, _basis(snapshot, best))
        return Conclusion(word="IMPROVED", sentence=sentence, also=also)
    if not judgement.legs:
        return Conclusion(
            word="ADVISORY", sentence=("There is one leg, ", baseline, ", and nothing to compare it with.")
        )
    words = {verdict.word for verdict in judgement.legs}
    word = "ADVISORY" if "ADVISORY" in words else "UNDECIDED" if "INCONCLUSIVE" in words else "EQUIVALENT"
    sentence = ("No leg is shown to be faster than ", baseline, _basis(snapshot, judgement.legs[0]))
    step = _next_step(snapshot, judgement, judgement.legs[0]) if word != "EQUIVALENT" else None
    return Conclusion(word=word, sentence=sentence, also=(*((step,) if step else ()), *also))


def _faster_than(snapshot: Snapshot, judgement: Judgement, candidate: Leg | None) -> list[Phrase]:
    """Legs that beat the candidate: a control first, else the runner-up, whose lead was not tested by itself."""
    if candidate is None:
        return []
    mine = judgement.of_leg(candidate.name).finding.ratio
    faster = [
        verdict
        for verdict in judgement.legs
        if verdict.leg.name != candidate.name and (verdict.finding.ratio or 0.0) > (mine or math.inf)
    ]
    faster.sort(key=lambda v: (v.leg.role != "control", -(v.finding.ratio or 0.0)))
    phrases: list[Phrase] = []
    for verdict in faster[:1]:
        who = "The control " if verdict.leg.role == "control" else ""
        ratio = interval_of(verdict.finding.ratio, verdict.finding.low, verdict.finding.high)
        sure = "" if verdict.word == "IMPROVED" else f" ({verdict.word.lower()})"
        phrases.append(
            (
                who,
                verdict.leg,
                f" is faster than the candidate: {ratio} tok/s over the baseline{sure}; its lead is advisory.",
            )
        )
    return phrases


def _diverged(snapshot: Snapshot, candidate: Leg | None) -> list[Phrase]:
    """Legs other than the candidate that have learnt nothing."""
    own = candidate.name if candidate is not None else None
    found = {t.trial.leg.name: t for t in snapshot.trials if t.diverged and t.trial.leg.name != own}
    return [(trial.trial.leg, f" diverged: {trial.diverged}.") for trial in list(found.values())[:3]]


def _left_out(snapshot: Snapshot) -> list[Phrase]:
    """Trials that ran uncompiled, whose blocks do without them."""
    found = [trial for trial in snapshot.trials if trial.fell_back]
    return [
        (trial.trial.leg, f" ran uncompiled in block {trial.trial.block}, which counts without it.")
        for trial in found[:3]
    ]


def _all_failed(snapshot: Snapshot) -> Conclusion | None:
    ended = [trial for trial in snapshot.trials if trial.state in ("failed", "damaged")]
    if not ended or len(ended) < len(snapshot.trials):
        return None
    first = ended[0]
    which = "The leg" if len(snapshot.plan.legs) == 1 else f"All {counted(len(snapshot.plan.legs), 'leg')}"
    return Conclusion(word="FAILED", sentence=(f"{which} failed; ", first.trial.leg, f": {_cause(first)}"))


def _cause(trial: TrialSnapshot) -> str:
    error = trial.attempts[-1].error if trial.attempts else None
    return f"{error.type}: {error.message}" if error is not None else trial.damage or "no cause is stored"


def _over(reference: Leg | None) -> Phrase:
    return () if reference is None else (" over ", reference)


def _against(reference: Leg | None) -> Phrase:
    return () if reference is None else (" against ", reference)
