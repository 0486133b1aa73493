"""The one sentence that an experiment amounts to: which leg to use, or why not, or what it takes to know.

A leg is recommended only if it is shown to be better than the baseline and every gate holds. Its lead over other legs
was not tested, so it is advice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.records.clock import wall_s
from sweeps.records.documents import COMPLETED_STATES
from sweeps.results.decisions.failures import all_failed, cause, failed_legs, leg_failed, never_completed
from sweeps.results.decisions.judgement import GateVerdict, Judgement, LegVerdict, blocks_to_decide
from sweeps.results.decisions.phrase import Phrase, interval_of, with_limits
from sweeps.results.decisions.twins import sentences
from sweeps.results.measures.compare import compare_legs
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.measures.untimed import untimed_trials
from sweeps.spec.duration import in_words
from sweeps.spec.legs import Leg
from sweeps.spec.words import counted, fixed, percent_change

PLAIN_NAMES = {"tok_per_sec": "tok/s", "peak_mib": "peak memory", "loss": "loss"}
CPU_WARNING = (
    "These trials ran on a CPU: their speed ranking of compile modes and of precisions means nothing, and neither does "
    "their peak memory, which is that of the whole process"
)
_BESIDE = ("loss", "peak_mib")
# Of a sweep without gates in which no leg is faster: what the legs' words amount to, the first that any of them has.
_STRONGEST = (
    ("ADVISORY", "ADVISORY"),
    ("INCONCLUSIVE", "UNDECIDED"),
    ("EQUIVALENT", "EQUIVALENT"),
    ("REGRESSED", "REGRESSED"),
)


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What leads: a word, a sentence, and further sentences that must not be missed."""

    word: str  # PASS, FAIL, UNDECIDED, ADVISORY, INVALID or FAILED; without gates that of the legs
    sentence: Phrase
    also: tuple[Phrase, ...] = ()


def ran_on_cpu(snapshot: Snapshot) -> bool:
    """True if any trial did, so that its speed and its memory say nothing of a GPU."""
    return any(trial.facts.get("device") == "cpu" for trial in snapshot.trials)


def conclude(snapshot: Snapshot, judgement: Judgement) -> Conclusion:
    """The conclusion of an experiment as it stands."""
    failed = all_failed(snapshot)
    if failed is not None:
        return Conclusion(word="FAILED", sentence=failed[0], also=(failed[1],))
    if twins := sentences(snapshot, judgement):
        verdict, floor = twins
        return Conclusion(word=judgement.legs[0].word, sentence=(verdict,), also=((floor,),))
    candidate = snapshot.plan.candidate
    broken = _failed_side(snapshot, candidate)
    notes = _notes(snapshot, judgement, candidate)
    if broken is not None:
        sentence, where, leg = broken
        return Conclusion(word="FAILED", sentence=sentence, also=(where, *notes, *failed_legs(snapshot, [leg])))
    also = (*notes, *failed_legs(snapshot, []))
    if candidate is None or not judgement.gates:
        return _best_leg(snapshot, judgement, also)
    if judgement.diverged is not None:
        lost_it: Phrase = ("Do not use ", candidate, f": it diverged: {judgement.diverged}.")
        return Conclusion(word="FAIL", sentence=lost_it, also=also)
    verdict = judgement.of_leg(candidate.name)
    basis = _basis(snapshot, judgement, verdict)
    if judgement.outcome == "PASS":
        return _passed(snapshot, judgement, verdict, also)
    if judgement.outcome == "FAIL":
        lost = [gate for gate in judgement.gates if gate.outcome == "FAIL"]
        rest = [gate for gate in judgement.gates if gate.outcome != "FAIL"]
        return Conclusion(
            word="FAIL", sentence=("Do not use ", candidate, ": ", *_gates([*lost, *rest]), basis), also=also
        )
    return _undecided(snapshot, judgement, verdict, also)


def _failed_side(snapshot: Snapshot, candidate: Leg | None) -> tuple[Phrase, Phrase, Leg] | None:
    """What to say if the candidate or the baseline has failed for good, so that nothing can be compared."""
    baseline = snapshot.plan.baseline
    if candidate is not None and (trial := never_completed(snapshot, candidate)) is not None:
        return *leg_failed(snapshot, candidate, trial), candidate
    if (trial := never_completed(snapshot, baseline)) is not None:
        _, where = leg_failed(snapshot, baseline, trial)
        return ("Nothing can be compared: the baseline ", baseline, f" failed: {cause(trial)}"), where, baseline
    return None


def _notes(snapshot: Snapshot, judgement: Judgement, candidate: Leg | None) -> tuple[Phrase, ...]:
    return (*_faster_than(judgement, candidate), *_diverged(snapshot, candidate), *_left_out(snapshot))


def _passed(snapshot: Snapshot, judgement: Judgement, verdict: LegVerdict, also: tuple[Phrase, ...]) -> Conclusion:
    """Every gate holds. Only a leg that is better in something is one to use."""
    is_better = verdict.word == "IMPROVED" or any(gate.word == "IMPROVED" for gate in judgement.gates)
    words: list[str | Leg] = [*_gates(judgement.gates)]
    if not any(
        gate.metric.name == verdict.metric.name and gate.reference == verdict.reference for gate in judgement.gates
    ):
        words = [*_speed(verdict), ", ", *words]
    basis = _basis(snapshot, judgement, verdict)
    if is_better:
        lead = _lead(judgement, verdict)
        return Conclusion(word="PASS", sentence=("Use ", verdict.leg, ": ", *words, basis), also=(*lead, *also))
    sentence: Phrase = (
        *("Every gate holds, but ", verdict.leg, " is not shown to be better than ", verdict.reference, ": "),
        *words,
        basis,
    )
    return Conclusion(word="PASS", sentence=sentence, also=also)


def _undecided(snapshot: Snapshot, judgement: Judgement, verdict: LegVerdict, also: tuple[Phrase, ...]) -> Conclusion:
    words = [gate.word for gate in judgement.gates]
    if "INVALID" in words:
        broken = next(gate for gate in judgement.gates if gate.word == "INVALID")
        sentence: Phrase = (verdict.leg, " cannot be judged", *_against(broken.reference), f": {broken.reason}.")
        return Conclusion(word="INVALID", sentence=sentence, also=also)
    word = "ADVISORY" if "ADVISORY" in words else "UNDECIDED"
    if not verdict.finding.num_blocks:
        missing: Phrase = (verdict.leg, " cannot be compared yet: ", *_missing(snapshot, verdict.leg))
        return Conclusion(word=word, sentence=missing, also=also)
    basis = _basis(snapshot, judgement, verdict)
    sentence = ("Not decided: ", verdict.leg, " shows ", *_gates(judgement.gates), basis)
    return Conclusion(word=word, sentence=sentence, also=(_next_step(snapshot, judgement, verdict), *also))


def _speed(verdict: LegVerdict) -> Phrase:
    finding = verdict.finding
    return (f"{interval_of(finding.ratio, finding.low, finding.high)} tok/s over ", verdict.reference)


def _lead(judgement: Judgement, best: LegVerdict) -> list[Phrase]:
    """By how much the best leg leads the next one, which no test covers."""
    mine = best.finding.ratio
    comparable = [v for v in judgement.legs if v.finding.ratio is not None and v.word != "INVALID"]
    others = [v for v in comparable if v.leg.name != best.leg.name]
    if mine is None or not others:
        return []
    second = max(others, key=lambda v: v.finding.ratio or 0.0)
    ratio = second.finding.ratio
    if ratio is None or not 1 < ratio < mine:
        return []
    return [("Its lead over the runner-up ", second.leg, f", {percent_change(mine / ratio)} tok/s, is advisory.")]


def gate_in_words(gate: GateVerdict) -> Phrase:
    """One gate: what was measured, with its interval, and whether that is what was asked."""
    name, value = PLAIN_NAMES.get(gate.metric.name, gate.metric.label), gate_value(gate)
    if gate.gate.improves is not None:
        asked = {"PASS": "", "FAIL": " (asked: better)", "UNDECIDED": " (asked: better)"}[gate.outcome]
        small = ", small" if gate.is_small else ""
        return (f"{value} {name}", *_over(gate.reference), f"{small}{asked}")
    if gate.word == "HOLDS":
        return (f"{name} {value}, within its bound",)
    held = "past" if gate.word == "EXCEEDED" else "not yet decided against"
    return (f"{name} {value}, {held} its bound of {gate_bound(gate)}",)


def gate_value(gate: GateVerdict) -> str:
    """The measured change with its interval, or the value itself for a bound without a reference."""
    if gate.value is None:
        return "not measured"
    if gate.reference is None:
        return with_limits(
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


def _gates(gates: Sequence[GateVerdict]) -> Phrase:
    words: list[str | Leg] = []
    for gate in gates:
        words += [", " if words else "", *gate_in_words(gate)]
    return tuple(words)


def _basis(snapshot: Snapshot, judgement: Judgement, verdict: LegVerdict) -> str:
    """On what it rests: trials, and the block after which the speed and every gate that holds was decided."""
    done = sum(trial.state in COMPLETED_STATES for trial in snapshot.trials)
    looks = [verdict.finding.decided_after]
    if judgement.outcome == "PASS":
        looks += [gate.decided_after for gate in judgement.gates if gate.metric.read.statistic != "highest"]
    known = [look for look in looks if look is not None]
    decided = f"; decided after {counted(max(known), 'block')}" if known else ""
    return f"; {done} of {counted(len(snapshot.trials), 'trial')}{decided}."


def _next_step(snapshot: Snapshot, judgement: Judgement, verdict: LegVerdict) -> Phrase:
    """What it takes to decide."""
    if snapshot.manifest.imported_from is not None:
        return ("Logs of single runs give advice. For a verdict run the legs here: `nanochat-sweep launch SWEEP`.",)
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
    if not verdict.finding.num_blocks:
        return _missing(snapshot, verdict.leg)
    needed = blocks_to_decide(judgement, verdict, len(snapshot.plan.family))
    within = (
        f"about {counted(needed - judgement.num_complete, 'more block')}"
        f"{_takes(snapshot, needed - judgement.num_complete)} should decide it"
        if needed is not None
        else f"{judgement.max_blocks} blocks will probably not decide it"
    )
    return (f"At this spread {within}: `nanochat-sweep restore {snapshot.manifest.id} --blocks auto`.",)


def _takes(snapshot: Snapshot, num_blocks: int) -> str:
    """` (12 min)`: what so many blocks take if trials take as long as they did; nothing if that is not known."""
    runs = [trial.attempts for trial in snapshot.trials if trial.state in COMPLETED_STATES]
    times = [[wall_s(attempt) for attempt in attempts] for attempts in runs]
    known = [sum(s for s in of_trial if s is not None) for of_trial in times if of_trial and None not in of_trial]
    legs = {trial.trial.leg.name for trial in snapshot.trials}
    seconds = num_blocks * len(legs) * sum(known) / len(known) if known else 0.0
    return f" ({in_words(seconds)})" if seconds > 0 else ""


def _missing(snapshot: Snapshot, leg: Leg) -> Phrase:
    """Why no block has the leg and the baseline."""
    untimed = {trial.trial.leg.name: (trial, why) for trial, why in untimed_trials(snapshot)}
    for trial, why in [untimed[name] for name in (snapshot.plan.baseline.name, leg.name) if name in untimed][:1]:
        return (trial.trial.leg, f" has no timing ({why}); run more steps, or without a stop.")
    return ("it or the baseline is not completed.",)


def _best_leg(snapshot: Snapshot, judgement: Judgement, also: tuple[Phrase, ...]) -> Conclusion:
    """Without gates: the fastest leg that is better than the baseline."""
    baseline = snapshot.plan.baseline
    better = [verdict for verdict in judgement.legs if verdict.word == "IMPROVED"]
    if better:
        best = max(better, key=lambda v: v.finding.ratio or 0.0)
        role = " (control)" if best.leg.role == "control" else ""
        basis = _basis(snapshot, judgement, best)
        sentence: Phrase = (
            "Fastest: ",
            best.leg,
            f"{role}, ",
            *_speed(best),
            *_beside_speed(snapshot, best.leg),
            basis,
        )
        ungated: Phrase = ("The sweep declares no gates: whether loss and memory may change so is for you to say.",)
        return Conclusion(word="IMPROVED", sentence=sentence, also=(*_lead(judgement, best), ungated, *also))
    if not judgement.legs:
        return Conclusion(
            word="ADVISORY", sentence=("There is one leg, ", baseline, ", and nothing to compare it with.")
        )
    words = {verdict.word for verdict in judgement.legs}
    if words == {"INVALID"}:
        reason = judgement.legs[0].reason
        return Conclusion(
            word="INVALID", sentence=("No leg can be compared with ", baseline, f": {reason}."), also=also
        )
    word = next(word for name, word in _STRONGEST if name in words)
    closest = max(judgement.legs, key=lambda v: v.finding.ratio or 0.0)
    seen: Phrase = ("; ", closest.leg, " shows ", *_speed(closest)) if closest.finding.ratio is not None else ()
    basis = _basis(snapshot, judgement, judgement.legs[0])
    sentence = ("No leg is shown to be faster than ", baseline, *seen, basis)
    is_open = word in ("ADVISORY", "UNDECIDED")
    step = _next_step(snapshot, judgement, judgement.legs[0]) if is_open else None
    return Conclusion(word=word, sentence=sentence, also=(*((step,) if step else ()), *also))


def _beside_speed(snapshot: Snapshot, leg: Leg) -> Phrase:
    """Loss and memory of a leg over the baseline, as plain ratios."""
    changes = [
        (name, compare_legs(snapshot, leg.name, snapshot.plan.baseline.name, name).ratio.value) for name in _BESIDE
    ]
    known = [f", {PLAIN_NAMES[name]} {percent_change(ratio)}" for name, ratio in changes if ratio is not None]
    return ("".join(known),)


def _faster_than(judgement: Judgement, candidate: Leg | None) -> list[Phrase]:
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


def _over(reference: Leg | None) -> Phrase:
    return () if reference is None else (" over ", reference)


def _against(reference: Leg | None) -> Phrase:
    return () if reference is None else (" against ", reference)
