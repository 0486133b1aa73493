"""The sections of a report, each a small piece of Markdown from a snapshot."""

import shlex

from sweeps.records.documents import AttemptRecord
from sweeps.results.compare import LegRatios, fastest_fp8_over_bf16, ratios_to_baseline
from sweeps.results.markdown import cell_code, code, table, text
from sweeps.results.snapshot import Snapshot, TrialSnapshot
from sweeps.results.status import number, run_table
from sweeps.results.tail import num_recompilations


def verdict(snapshot: Snapshot) -> tuple[str, str]:
    """What may be concluded: never more than advice from plain ratios."""
    plan = snapshot.plan
    runs = (
        "each leg ran in one block, and single runs of one leg differ by a percent or two by themselves"
        if plan.num_blocks == 1
        else f"the ratios are means over {plan.num_blocks} blocks without an interval"
    )
    caveat = f"The comparison is advice, not a verdict: {runs}."
    if plan.candidate is None:
        return "ADVISORY", f"{caveat} The sweep names no candidate; the baseline is {code(plan.baseline.name)}."
    found = next(r for r in ratios_to_baseline(snapshot) if r.leg.name == plan.candidate.name)
    who = f"The candidate {code(plan.candidate.name)}"
    if not found.num_blocks:
        return "ADVISORY", f"{caveat} {who} cannot be compared yet: it or the baseline is not completed."
    return "ADVISORY", f"{caveat} {who} against the baseline {code(plan.baseline.name)}: {_in_words(found)}."


def remarks(snapshot: Snapshot) -> list[str]:
    """What a reader must know beside the verdict: the FP8 legs against bf16, and what a CPU cannot tell."""
    lines: list[str] = []
    best = fastest_fp8_over_bf16(snapshot)
    if best is not None:
        leg, ratios, control = best
        lines.append(
            f"Fastest FP8 leg, {code(leg.name)}, over the bf16 control {code(control.name)}: {_in_words(ratios)}."
        )
    if any(t.facts.get("device") == "cpu" for t in snapshot.trials):
        lines.append(
            "**These trials ran on a CPU: their speed ranking of compile modes and of precisions means nothing.** "
            "Only a GPU can tell; losses and the whole path from launch to report are real."
        )
    return lines


def ratio_table(snapshot: Snapshot) -> str:
    """One line per leg: its role and its ratios to the baseline."""
    headings = ["leg", "role", "tok/s", "peak MiB", "loss", "min to baseline's loss", "dropped %"]
    rows = [
        [
            cell_code(r.leg.name),
            r.leg.role,
            number(r.tok_per_sec, 3),
            number(r.peak_mib, 3),
            number(r.loss, 4),
            number(r.minutes_to_baseline_loss, 2),
            number(r.dropped_pct, 2),
        ]
        for r in ratios_to_baseline(snapshot)
    ]
    return table(headings, rows, num_left=2)


def ratio_note(snapshot: Snapshot) -> str:
    """How to read the ratios."""
    n = snapshot.plan.window_steps
    return (
        f"tok/s, peak MiB and loss are the leg's value over the baseline's: tok/s over the last {n} steps "
        f"whose time counts, peak memory of the fullest rank, loss the raw mean of the last {n} steps. "
        "Minutes count steps > 10 until the averaged loss first is at or below the baseline's last. "
        "A leg that drops assignments does less work per token. - stands for what is not there: a leg that is "
        f"not completed or, for tok/s, has no {n} counted steps in one attempt."
    )


def run_summary(snapshot: Snapshot) -> str:
    """The run summary table."""
    headings, *rows = run_table(snapshot)
    return table(headings, [[cell_code(row[0]), *row[1:]] for row in rows], num_left=2)


def compile_table(snapshot: Snapshot) -> str:
    """Compile mode and what became of it, and the kernels that served the trial."""
    headings = ["run", "mode", "status", "cache", "recompilations", "first step s", "kernels"]
    rows = [
        [
            cell_code(t.run),
            t.trial.config.compile.mode,
            _compile_status(t),
            t.facts.get("compile_cache", "-"),
            number(num_recompilations(t.rows), None),
            number(t.rows[0].dt_ms / 1000 if t.rows else None, 1),
            text(", ".join(f"{role} {kernel}" for role, kernel in sorted(t.facts.get("backends", {}).items()))) or "-",
        ]
        for t in snapshot.trials
    ]
    return table(headings, rows, num_left=4)


def interruption_lines(snapshot: Snapshot) -> list[str]:
    """What was cut off or failed, where it went on, and how many steps were repeated."""
    lines: list[str] = []
    for trial in snapshot.trials:
        last = len(trial.attempts) - 1
        for i, attempt in enumerate(trial.attempts):
            following = trial.attempts[i + 1] if i < last else None
            if following is not None or trial.state in ("interrupted", "failed"):
                lines.append(_interruption(trial, attempt, following))
    return lines


def provenance_table(snapshot: Snapshot) -> str:
    """Where the numbers come from."""
    m = snapshot.manifest
    devices = sorted({_device(t) for t in snapshot.trials if t.facts})
    commit = "unknown" if m.git_commit is None else m.git_commit
    rows = [
        ["experiment", code(m.id)],
        ["launched (UTC)", text(m.created_utc)],
        ["command", cell_code(shlex.join(m.argv))],
        ["code", code(commit) + (" with uncommitted changes (in manifest.json)" if m.git_diff else "")],
        ["plan sha256", code(m.plan_digest)],
        ["trials", f"{len(snapshot.plan.legs)} legs x {snapshot.plan.num_blocks} blocks"],
        ["devices", text("; ".join(devices)) or "-"],
        ["versions", text(", ".join(f"{name} {version}" for name, version in sorted(m.versions.items()))) or "-"],
    ]
    return table(["", ""], rows, num_left=2)


def damage_lines(snapshot: Snapshot) -> list[str]:
    """Which files were not whole."""
    return [f"{code(file)} is torn: its whole lines are used, the rest is ignored" for file in snapshot.torn_files]


def artifact_lines(snapshot: Snapshot) -> list[str]:
    """What lies where."""
    logs = [f"{code(t.log_name)}: whole output of {code(t.run)}" for t in snapshot.trials if t.attempts]
    return [
        "`export/legs.parquet`: one row per trial",
        "`export/steps.parquet`: each step of each trial once",
        "`manifest.json`: the plan with every config, the command, the versions",
        *logs,
    ]


def _in_words(ratios: LegRatios) -> str:
    parts = [
        ("tok/s", ratios.tok_per_sec, 3),
        ("peak memory", ratios.peak_mib, 3),
        ("loss", ratios.loss, 4),
    ]
    return ", ".join(f"{name} x {number(value, digits)}" for name, value, digits in parts)


def _compile_status(trial: TrialSnapshot) -> str:
    if trial.trial.config.compile.mode == "none":
        return "not compiled"
    if not trial.rows:
        return "failed before the first step" if trial.state == "failed" else "-"
    return "recompiled on the way" if num_recompilations(trial.rows) else "ok"


def _interruption(trial: TrialSnapshot, attempt: AttemptRecord, following: AttemptRecord | None) -> str:
    span = trial.spans.get(attempt.number)
    steps = f"stored steps {span[0]} to {span[1]}" if span else "stored no step"
    how = {
        "failed": "failed",
        "stopped": "was stopped",
        "completed": "ended before its result was written",
        "interrupted": "was interrupted",
        None: "was cut off",
    }[attempt.end]
    line = f"{code(trial.run)}: attempt {attempt.number} on {text(attempt.host)} {steps} and {how}"
    if attempt.error is not None:
        line += f": {text(attempt.error.type)}: {text(attempt.error.message)[:300]} (log: {code(trial.log_name)})"
    if following is None:
        return line + ("." if attempt.end == "failed" else "; `nanochat-sweep restore` continues it.")
    if following.first_step is None:
        return line + f"; attempt {following.number} followed."
    reached = max((trial.spans[n][1] for n in trial.spans if n <= attempt.number), default=-1)
    repeated = max(0, reached + 1 - following.first_step)
    return line + f"; attempt {following.number} went on from step {following.first_step} ({repeated} steps repeated)."


def _device(trial: TrialSnapshot) -> str:
    facts = trial.facts
    return f"{facts.get('world_size')} x {facts.get('device_name') or facts.get('device')}"
