"""How a report begins: what can be concluded, the time to the baseline's loss, and FP8 against the bf16 control.

Not tok/s alone: a leg that is fast and learns less, or beats only its own slow baseline, has not won.
"""

from collections.abc import Sequence

from sweeps.results.decisions.conclusion import CPU_WARNING, PLAIN_NAMES, conclude, ran_on_cpu
from sweeps.results.decisions.judged import judged
from sweeps.results.decisions.phrase import Phrase, interval_of
from sweeps.results.decisions.time_to_loss import time_to_loss
from sweeps.results.measures.compare import (
    blocks_of,
    compare_legs,
    fastest_fp8_over_bf16,
    mean_over_blocks,
    unusable_trials,
)
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import Block, Code, Fact, Facts, Paragraph, Strong, VerdictLine, Words
from sweeps.spec.legs import Leg
from sweeps.spec.metrics import LEADING, METRIC
from sweeps.spec.words import counted, fixed, grouped, percent_change


def verdict(snapshot: Snapshot, *, named: bool) -> list[VerdictLine]:
    """What can be concluded, and what must not be missed next to it; `named`: sentences begin with the experiment."""
    found = conclude(snapshot, judged(snapshot))
    whose = _whose(snapshot, named)
    leading = VerdictLine(word=found.word, sentence=(*whose, *_words(found.sentence)))
    return [leading, *(VerdictLine(word="", sentence=(*whose, *_words(phrase))) for phrase in found.also)]


def _words(phrase: Phrase) -> Words:
    return tuple(piece if isinstance(piece, str) else Code(piece.name) for piece in phrase)


def candidate_facts(snapshot: Snapshot, *, named: bool) -> list[Block]:
    """Time to loss, speed, memory and loss of the candidate next to the baseline; nothing before both are completed.

    Nothing either if one of the two diverged or ran uncompiled in any block.
    """
    plan = snapshot.plan
    if plan.candidate is None or unusable_trials(snapshot, plan.candidate.name, plan.baseline.name):
        return []
    if not blocks_of(snapshot, plan.candidate.name, plan.baseline.name):
        return []
    title: Words = (
        *_whose(snapshot, named),
        "Candidate ",
        Code(plan.candidate.name),
        " against the baseline ",
        Code(plan.baseline.name),
    )
    return [Facts(title=title, facts=_facts(snapshot, plan.candidate, plan.baseline, "baseline"))]


def fp8_facts(snapshot: Snapshot, *, named: bool) -> list[Block]:
    """The fastest FP8 leg over the bf16 control, where both are measured."""
    best = fastest_fp8_over_bf16(snapshot)
    if best is None:
        return []
    leg, control = best
    title: Words = (
        *_whose(snapshot, named),
        "Fastest FP8 leg ",
        Code(leg.name),
        " over the bf16 control ",
        Code(control.name),
    )
    return [Facts(title=title, facts=_facts(snapshot, leg, control, "control"))]


def cpu_warning(snapshots: Sequence[Snapshot]) -> list[Block]:
    """What trials on a CPU cannot tell."""
    if not any(map(ran_on_cpu, snapshots)):
        return []
    words: Words = (
        Strong(f"{CPU_WARNING}."),
        " Only a GPU can tell; losses and the whole path from launch to report are real.",
    )
    return [Paragraph(words=words)]


def _whose(snapshot: Snapshot, named: bool) -> Words:
    return (Code(snapshot.manifest.id), ": ") if named else ()


def _facts(snapshot: Snapshot, leg: Leg, base: Leg, base_role: str) -> list[Fact]:
    return [_time_to_loss(snapshot, leg, base, base_role), *(_fact(snapshot, leg, base, m.name) for m in LEADING)]


def _time_to_loss(snapshot: Snapshot, leg: Leg, base: Leg, base_role: str) -> Fact:
    label = f"time to the {base_role}'s loss"
    found = time_to_loss(snapshot, leg.name, base.name)
    barred = compare_legs(snapshot, leg.name, base.name, "total_time_min").reason
    if found is None:
        return Fact(label=label, value="not compared", detail=(barred or "no block has the losses of both",))
    target = f"{fixed(found.target, 4)}, {percent_change(found.tolerance)} over the {base_role}'s final loss"
    own = "-" if found.reference_minutes is None else f"{fixed(found.reference_minutes, 2)} min"
    if found.minutes is None:
        return Fact(label=label, value="not reached", detail=(f"{base_role}: {own}; target {target}",))
    change = f", {interval_of(found.ratio, found.low, found.high)}" if found.ratio is not None else ""
    detail = f"{base_role}: {own}{change}; target {target}"
    return Fact(label=label, value=f"{fixed(found.minutes, 2)} min", detail=(detail,))


def _fact(snapshot: Snapshot, leg: Leg, base: Leg, name: str) -> Fact:
    metric, comparison = METRIC[name], compare_legs(snapshot, leg.name, base.name, name)
    means = [mean_over_blocks(snapshot, each.name, name) for each in (leg, base)]
    values = ["-" if mean.value is None else grouped(mean.value, metric.digits) for mean in means]
    unit = f" {metric.unit}" if name == "peak_mib" else ""
    detail = f"{values[0]} against {values[1]}{unit}"
    if comparison.reason is not None:
        detail += f"; not compared: {comparison.reason}"
    ratio = comparison.ratio
    if snapshot.plan.num_blocks > 1 and ratio.num_blocks:
        detail += f"; {counted(ratio.num_blocks, 'block')}"
    value = "-" if ratio.value is None else percent_change(ratio.value)
    return Fact(label=PLAIN_NAMES[name], value=value, detail=(detail,))
