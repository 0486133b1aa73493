"""How a report begins: what may be concluded, the time to the baseline's loss, and FP8 against the bf16 control.

Not tok/s alone: a leg that is fast and learns less, or beats only its own slow baseline, has not won. From plain ratios
no more than advice follows, and the first word says so.
"""

from collections.abc import Sequence

from sweeps.results.measures.compare import (
    Comparison,
    blocks_of,
    compare,
    fastest_fp8_over_bf16,
    mean_over_blocks,
    minutes_to_loss_of,
    unusable_trials,
)
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import Block, Code, Fact, Facts, Paragraph, Piece, Strong, Verdict, Words
from sweeps.spec.legs import Leg
from sweeps.spec.metrics import LEADING, METRIC
from sweeps.spec.words import counted, fixed, percent_change

_IN_SENTENCES = {"tok_per_sec": "tok/s", "peak_mib": "peak memory", "loss": "loss"}


def verdict(snapshot: Snapshot, *, named: bool) -> Verdict:
    """What may be concluded; `named`: the sentence begins with the experiment."""
    plan, whose = snapshot.plan, _whose(snapshot, named)
    if plan.candidate is None:
        sentence = (*whose, _caveat(plan.num_blocks), "The sweep names no candidate; the baseline is ")
        return Verdict(word="ADVISORY", sentence=(*sentence, Code(plan.baseline.name), "."))
    unusable = unusable_trials(snapshot, plan.candidate.name, plan.baseline.name)
    if unusable:
        return Verdict(word="INVALID", sentence=(*whose, *_unusable(plan.candidate, plan.baseline, snapshot)))
    num_blocks = len(blocks_of(snapshot, plan.candidate.name, plan.baseline.name))
    candidate: Words = (*whose, _caveat(num_blocks or plan.num_blocks), "The candidate ", Code(plan.candidate.name))
    if not num_blocks:
        sentence = (*candidate, " cannot be compared yet: it or the baseline is not completed.")
        return Verdict(word="ADVISORY", sentence=sentence)
    found = [compare(snapshot, plan.candidate.name, plan.baseline.name, metric.name) for metric in LEADING]
    ratios = ", ".join(map(_in_words, found))
    sentence = (*candidate, " against the baseline ", Code(plan.baseline.name), f": {ratios}.")
    return Verdict(word="ADVISORY", sentence=sentence)


def _caveat(num_blocks: int) -> str:
    runs = (
        "each leg ran in one block, and runs of the same leg vary by 1 to 2 %"
        if num_blocks == 1
        else f"the ratios are means over {num_blocks} blocks without an interval"
    )
    return f"The comparison is advice, not a verdict: {runs}. "


def _unusable(candidate: Leg, baseline: Leg, snapshot: Snapshot) -> Words:
    """Which of the two is not what it should be."""
    words: list[Piece] = []
    for role, leg in (("candidate", candidate), ("baseline", baseline)):
        for why in dict.fromkeys(why for _, why in unusable_trials(snapshot, leg.name)):
            words += ["; the " if words else "The ", f"{role} ", Code(leg.name), f" {why}"]
    return (*words, ", so the two cannot be compared.")


def candidate_facts(snapshot: Snapshot, *, named: bool) -> list[Block]:
    """Time to loss, speed, memory and loss of the candidate beside the baseline; nothing before both are completed.

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
    if not any(t.facts.get("device") == "cpu" for s in snapshots for t in s.trials):
        return []
    words: Words = (
        Strong("These trials ran on a CPU: their speed ranking of compile modes and of precisions means nothing."),
        " Only a GPU can tell; losses and the whole path from launch to report are real.",
    )
    return [Paragraph(words=words)]


def _whose(snapshot: Snapshot, named: bool) -> Words:
    return (Code(snapshot.manifest.id), ": ") if named else ()


def _in_words(comparison: Comparison) -> str:
    name, ratio = _IN_SENTENCES[comparison.metric.name], comparison.ratio.value
    if ratio is None:
        return f"{name} not compared ({comparison.reason})" if comparison.reason else f"{name} x -"
    return f"{name} x {ratio:.{4 if comparison.metric.name == 'loss' else 3}f}"


def _facts(snapshot: Snapshot, leg: Leg, base: Leg, base_role: str) -> list[Fact]:
    return [_time_to_loss(snapshot, leg, base, base_role), *(_fact(snapshot, leg, base, m.name) for m in LEADING)]


def _time_to_loss(snapshot: Snapshot, leg: Leg, base: Leg, base_role: str) -> Fact:
    label = f"time to the {base_role}'s loss"
    reached = minutes_to_loss_of(snapshot, leg.name, base.name)
    barred = compare(snapshot, leg.name, base.name, "total_time_min").reason
    if not reached.num_blocks and barred is not None:
        return Fact(label=label, value="not compared", detail=(barred,))
    needed = minutes_to_loss_of(snapshot, base.name, base.name).value
    own = f"{base_role}: " + ("-" if needed is None else f"{needed:.2f} min")
    if reached.value is None:
        return Fact(label=label, value="not reached", detail=(own,))
    change = f", {percent_change(reached.value / needed)}" if needed else ""
    return Fact(label=label, value=f"{reached.value:.2f} min", detail=(own + change,))


def _fact(snapshot: Snapshot, leg: Leg, base: Leg, name: str) -> Fact:
    metric, comparison = METRIC[name], compare(snapshot, leg.name, base.name, name)
    means = [mean_over_blocks(snapshot, each.name, name) for each in (leg, base)]
    values = ["-" if mean.value is None else _grouped(mean.value, metric.digits) for mean in means]
    unit = f" {metric.unit}" if name == "peak_mib" else ""
    detail = f"{values[0]} against {values[1]}{unit}"
    if comparison.reason is not None:
        detail += f"; not compared: {comparison.reason}"
    ratio = comparison.ratio
    if snapshot.plan.num_blocks > 1 and ratio.num_blocks:
        detail += f"; {counted(ratio.num_blocks, 'block')}"
    value = "-" if ratio.value is None else percent_change(ratio.value)
    return Fact(label=_IN_SENTENCES[name], value=value, detail=(detail,))


def _grouped(value: float, digits: int) -> str:
    """With its thousands parted."""
    return f"{value:,.{digits}f}" if abs(value) < 1e15 else fixed(value, digits)
