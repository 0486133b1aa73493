"""How a report begins: what may be concluded, the time to the baseline's loss, and FP8 against the bf16 control.

Not tok/s alone: a leg that is fast and learns less, or beats only its own slow baseline, has not won. From plain ratios
no more than advice follows, and the first word says so.
"""

from collections.abc import Callable, Sequence

from sweeps.results.measures.compare import (
    LegRatios,
    against,
    fastest_fp8_over_bf16,
    has_fallen_back,
    mean_over_blocks,
    ratios_to_baseline,
)
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.measures.trial import Measures
from sweeps.results.report.blocks import Block, Code, Fact, Facts, Paragraph, Strong, Verdict, Words
from sweeps.results.report.figures.scales import percent_text
from sweeps.spec.legs import Leg

Measure = Callable[[Measures], float | None]


def verdict(snapshot: Snapshot, *, named: bool) -> Verdict:
    """What may be concluded; `named`: the sentence begins with the experiment."""
    plan = snapshot.plan
    runs = (
        "each leg ran in one block, and single runs of one leg differ by a percent or two by themselves"
        if plan.num_blocks == 1
        else f"the ratios are means over {plan.num_blocks} blocks without an interval"
    )
    caveat: Words = (*_whose(snapshot, named), f"The comparison is advice, not a verdict: {runs}. ")
    if plan.candidate is not None and _is_invalid(snapshot, plan.candidate):
        why = _fallen_back(plan.candidate, plan.baseline)
        return Verdict(word="INVALID", sentence=(*_whose(snapshot, named), *why))
    if plan.candidate is None:
        sentence = (*caveat, "The sweep names no candidate; the baseline is ", Code(plan.baseline.name), ".")
        return Verdict(word="ADVISORY", sentence=sentence)
    found = next(r for r in ratios_to_baseline(snapshot) if r.leg.name == plan.candidate.name)
    candidate: Words = (*caveat, "The candidate ", Code(plan.candidate.name))
    if not found.num_blocks:
        sentence = (*candidate, " cannot be compared yet: it or the baseline is not completed.")
        return Verdict(word="ADVISORY", sentence=sentence)
    sentence = (*candidate, " against the baseline ", Code(plan.baseline.name), f": {_in_words(found)}.")
    return Verdict(word="ADVISORY", sentence=sentence)


def _is_invalid(snapshot: Snapshot, candidate: Leg) -> bool:
    """Whether nothing can be said of candidate and baseline, because a trial of one is not what it should be."""
    return has_fallen_back(snapshot, candidate.name, snapshot.plan.baseline.name)


def _fallen_back(candidate: Leg, baseline: Leg) -> Words:
    return (
        "Compiling failed in the candidate ",
        Code(candidate.name),
        " or in the baseline ",
        Code(baseline.name),
        ", and it went on uncompiled: nothing can be said about the two. Why is told below the compile status.",
    )


def candidate_facts(snapshot: Snapshot, *, named: bool) -> list[Block]:
    """Time to loss, speed, memory and loss of the candidate beside the baseline; nothing before both are completed.

    Nothing either where one of the two went on uncompiled in any block.
    """
    plan = snapshot.plan
    if plan.candidate is None or _is_invalid(snapshot, plan.candidate):
        return []
    found = {r.leg.name: r for r in ratios_to_baseline(snapshot)}
    ratios, base = found[plan.candidate.name], found[plan.baseline.name]
    if not ratios.num_blocks:
        return []
    facts = [
        _time_to_loss("baseline", ratios, base),
        *_plain_facts(snapshot, ratios, plan.candidate.name, plan.baseline.name),
    ]
    title: Words = (
        *_whose(snapshot, named),
        "Candidate ",
        Code(plan.candidate.name),
        " against the baseline ",
        Code(plan.baseline.name),
    )
    return [Facts(title=title, facts=facts)]


def fp8_facts(snapshot: Snapshot, *, named: bool) -> list[Block]:
    """The fastest FP8 leg over the bf16 control, where both are measured."""
    best = fastest_fp8_over_bf16(snapshot)
    if best is None:
        return []
    leg, ratios, control = best
    title: Words = (
        *_whose(snapshot, named),
        "Fastest FP8 leg ",
        Code(leg.name),
        " over the bf16 control ",
        Code(control.name),
    )
    time = _time_to_loss("control", ratios, against(snapshot, control, control))
    return [Facts(title=title, facts=[time, *_plain_facts(snapshot, ratios, leg.name, control.name)])]


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


def _in_words(ratios: LegRatios) -> str:
    parts = [
        ("tok/s", ratios.tok_per_sec, 3),
        ("peak memory", ratios.peak_mib, 3),
        ("loss", ratios.loss, 4),
    ]
    return ", ".join(f"{name} x {'-' if value is None else f'{value:.{digits}f}'}" for name, value, digits in parts)


def _time_to_loss(base_role: str, ratios: LegRatios, base: LegRatios) -> Fact:
    label = f"time to the {base_role}'s loss"
    reached, needed = ratios.minutes_to_baseline_loss, base.minutes_to_baseline_loss
    own = f"{base_role}: " + ("-" if needed is None else f"{needed:.2f} min")
    if reached is None:
        return Fact(label=label, value="not reached", detail=(own,))
    change = f", {percent_text(reached / needed)}" if needed else ""
    return Fact(label=label, value=f"{reached:.2f} min", detail=(own + change,))


def _plain_facts(snapshot: Snapshot, ratios: LegRatios, leg: str, base: str) -> list[Fact]:
    rows: list[tuple[str, float | None, Measure, int, str]] = [
        ("tok/s", ratios.tok_per_sec, lambda m: m.tok_per_sec, 0, ""),
        ("peak memory", ratios.peak_mib, lambda m: m.peak_mib, 0, " MiB"),
        ("loss", ratios.loss, lambda m: m.loss, 4, ""),
    ]
    facts: list[Fact] = []
    for label, ratio, of, digits, unit in rows:
        means = [mean_over_blocks(snapshot, name, of) for name in (leg, base)]
        values = ["-" if mean is None else f"{mean:,.{digits}f}" for mean in means]
        facts.append(
            Fact(
                label=label,
                value="-" if ratio is None else percent_text(ratio),
                detail=(f"{values[0]} against {values[1]}{unit}",),
            )
        )
    return facts
