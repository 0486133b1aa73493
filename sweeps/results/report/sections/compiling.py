"""Compile mode, what became of it, and the kernels that ran: one line per leg, of all its blocks."""

from collections.abc import Iterable

from sweeps.results.measures.conditions import kernels_of
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.startup import between_legs_s
from sweeps.results.report.blocks import Cell, Code, Column, Table, Words, code_cell, number_cell, text_cell


def compile_table(snapshot: Snapshot) -> Table:
    """Compile mode and what became of it, and the kernels that served: one line per leg, of all its blocks."""
    rows: list[list[Cell]] = []
    for leg in snapshot.plan.legs:
        trials = snapshot.of_leg(leg.name)
        if not trials:
            continue
        statuses = [_compile_status(t) for t in trials]
        pauses = [s for t in trials if (s := between_legs_s(snapshot, t)) is not None]
        first_steps = [ms / 1000 for t in trials if (ms := t.summary.first_step_ms) is not None]
        starts = [attempt for t in trials for attempt in t.attempts if attempt.facts]
        kernels = [", ".join(f"{role} {k}" for role, k in sorted(kernels_of(a).items())) for a in starts]
        rows.append(
            [
                code_cell(leg.name),
                text_cell(_each_once(_mode(t) for t in trials)),
                text_cell(_each_once(word for word, _ in statuses), statuses[0][1] if len(set(statuses)) == 1 else ""),
                text_cell(_each_once((a.facts or {}).get("compile_cache") or "" for a in starts)),
                number_cell(_recompilations(trials)),
                number_cell(max(pauses, default=None), 1),
                number_cell(max(first_steps, default=None), 1),
                text_cell(_each_once(kernels)),
            ]
        )
    columns = [
        Column(heading="leg"),
        Column(heading="mode"),
        Column(heading="status"),
        Column(heading="cache"),
        Column(heading="recompilations", kind="number"),
        Column(heading="between legs s", kind="number"),
        Column(heading="first step s", kind="number"),
        Column(heading="kernels"),
    ]
    return Table(caption="Compile status and kernels of each leg", columns=columns, rows=rows)


def fallback_lines(snapshot: Snapshot) -> list[Words]:
    """Which trials ran uncompiled, and why."""
    return [
        (
            Code(t.run),
            " ran uncompiled, so it is compared with no other: ",
            t.fallback_reason or "",
        )
        for t in snapshot.trials
        if t.fell_back
    ]


def _each_once(words: Iterable[str]) -> str:
    """Different words in their first order; "-" for none."""
    return " / ".join(dict.fromkeys(word for word in words if word)) or "-"


def _mode(trial: TrialSnapshot) -> str:
    """The compile mode that a trial's config or its log says."""
    return trial.trial.config.compile.mode if trial.has_known_config else trial.facts.get("compile_mode") or ""


def _recompilations(trials: list[TrialSnapshot]) -> int | None:
    """Of the trials whose steps have them; a log does not."""
    told = [t.summary.recompilations for t in trials if t.imported is None]
    return sum(told) if told else None


def _compile_status(trial: TrialSnapshot) -> tuple[str, str]:
    """What became of compilation, and its tone."""
    if trial.imported is not None:
        return "-", ""
    if trial.trial.config.compile.mode == "none":
        return "not compiled", ""
    if trial.fell_back:
        return "failed, ran uncompiled", "failed"
    if not trial.steps:
        return ("failed before the first step", "failed") if trial.state == "failed" else ("-", "")
    return ("recompiled on the way", "outside") if trial.summary.recompilations else ("ok", "within")
