"""The sections of a report, each from the snapshots of one or several experiments.

Of several, tables get a column that names the experiment, and every leg is held against the baseline of its own
experiment: ratios between experiments would compare hosts and days.
"""

import shlex
from collections.abc import Callable, Iterable, Sequence

from sweeps.records.documents import AttemptRecord
from sweeps.results.decisions.gates import gate_lines
from sweeps.results.measures.compare import has_fallen_back, ratios_to_baseline
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.startup import between_legs_s
from sweeps.results.measures.trial import num_recompilations
from sweeps.results.report.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Column,
    Paragraph,
    Piece,
    Strong,
    Table,
    Words,
    code_cell,
    number_cell,
    text_cell,
)
from sweeps.results.status import RUN_COLUMNS, trial_status

Snapshots = Sequence[Snapshot]
_GATE_DIGITS = {"tok_per_sec": 0, "peak_mib": 0, "dt_ms": 1, "loss": 4}
_MANY_TRIALS = 12  # from which one line stands for all logs


def across(snapshots: Snapshots, make: Callable[[Snapshot], Table]) -> Table:
    """One table of all experiments; a column names them where there are several."""
    tables = [make(snapshot) for snapshot in snapshots]
    if len(tables) == 1:
        return tables[0]
    rows = [
        [code_cell(snapshot.manifest.id), *row]
        for snapshot, table in zip(snapshots, tables, strict=True)
        for row in table.rows
    ]
    first = tables[0]
    return Table(caption=first.caption, columns=[Column(heading="experiment"), *first.columns], rows=rows)


def listed(snapshots: Snapshots, make: Callable[[Snapshot], list[Words]], empty: str = "") -> Bullets:
    """One list of all experiments, each line with the experiment's name where there are several."""
    several = len(snapshots) > 1
    lines = [(Code(s.manifest.id), ", ", *line) if several else line for s in snapshots for line in make(s)]
    return Bullets(lines=lines, empty=empty)


def run_table(snapshot: Snapshot) -> Table:
    """The run summary: every trial under the names that people know."""
    text_columns = ("run", "status")
    rows: list[list[Cell]] = []
    for trial in snapshot.trials:
        values = vars(trial_status(trial, snapshot.plan.window_steps))
        numbers = [number_cell(values[n], digits) for n, (h, digits) in RUN_COLUMNS.items() if h not in text_columns]
        name: Words = (Code(trial.run), *((" (fell back to no compilation)",) if trial.fell_back else ()))
        rows.append([Cell(words=name), text_cell(trial.state, trial.state), *numbers])
    return Table(
        caption="Run summary, one line per trial",
        columns=[
            Column(heading=heading, kind="text" if heading in text_columns else "number")
            for heading, _ in RUN_COLUMNS.values()
        ],
        rows=rows,
    )


def ratio_table(snapshot: Snapshot) -> Table:
    """One line per leg: its role and its ratios to the baseline."""
    numbers = ["tok/s", "peak MiB", "loss", "min to baseline's loss", "dropped %"]
    rows = [
        [
            code_cell(r.leg.name),
            text_cell(r.leg.role, r.leg.role),
            number_cell(r.tok_per_sec, 3),
            number_cell(r.peak_mib, 3),
            number_cell(r.loss, 4),
            number_cell(r.minutes_to_baseline_loss, 2),
            number_cell(r.dropped_pct, 2),
        ]
        for r in ratios_to_baseline(snapshot)
    ]
    columns = [Column(heading="leg"), Column(heading="role"), *(Column(heading=n, kind="number") for n in numbers)]
    return Table(caption="Each leg as a ratio to the baseline", columns=columns, rows=rows)


def ratio_note(snapshots: Snapshots) -> Paragraph:
    """How to read the ratios."""
    windows = sorted({s.plan.window_steps for s in snapshots})
    n = " or ".join(map(str, windows))
    note = (
        f"tok/s, peak MiB and loss are the leg's value over the baseline's: tok/s over the last {n} steps "
        f"whose time counts, peak memory of the fullest rank, loss the raw mean of the last {n} steps. "
        "Minutes count steps > 10 until the averaged loss first is at or below the baseline's last. "
        "A leg that drops assignments does less work per token. - stands for what is not there: a leg that is "
        f"not completed, that went on uncompiled or, for tok/s, has no {n} counted steps in one attempt; steps beside "
        "a save that is still being written do not count."
    )
    return Paragraph(words=(note,), tone="note")


def gate_table(snapshot: Snapshot) -> Table:
    """The gates as declared, with value, bound and what may be said: advice, or nothing of a leg that fell back."""
    rows: list[list[Cell]] = []
    candidate = "" if snapshot.plan.candidate is None else snapshot.plan.candidate.name
    for line in gate_lines(snapshot):
        wants = "improves" if line.gate.at_most is None else f"at most x {line.gate.at_most:g}"
        digits = _GATE_DIGITS.get(line.gate.metric, 2)
        lies = {None: "not measured", True: "within the bound", False: "outside the bound"}[line.is_within]
        rows.append(
            [
                Cell(words=(Code(line.gate.metric), f" {wants}")),
                code_cell(line.reference),
                number_cell(line.value, digits),
                number_cell(line.reference_value, digits),
                number_cell(line.ratio, 4),
                Cell(words=(f"{line.sense} {line.bound:.4f}",), order=line.bound),
                text_cell(lies, {None: "", True: "within", False: "outside"}[line.is_within]),
                text_cell("INVALID" if has_fallen_back(snapshot, candidate, line.reference) else "ADVISORY"),
            ]
        )
    columns = [
        Column(heading="gate"),
        Column(heading="against"),
        Column(heading="candidate's", kind="number"),
        Column(heading="reference's", kind="number"),
        Column(heading="ratio", kind="number"),
        Column(heading="bound", kind="number"),
        Column(heading="plain ratio"),
        Column(heading="verdict"),
    ]
    return Table(caption="Gates of the sweep", columns=columns, rows=rows)


def gate_blocks(snapshots: Snapshots) -> list[Block]:
    """The gate table and how far it may be believed, or that there are no gates."""
    if not any(s.plan.gates for s in snapshots):
        return [Paragraph(words=("The sweep declares no gates.",))]
    note = (
        "Values are the candidate's and the reference's plain means over the blocks; the ratio is a geometric mean "
        "over the blocks. It has no interval yet, so every verdict is ADVISORY: a ratio within its bound is no proof, "
        "one outside may be chance. INVALID: one of the two legs went on uncompiled, because compiling failed."
    )
    return [across(snapshots, gate_table), Paragraph(words=(note,), tone="note")]


def compile_table(snapshot: Snapshot) -> Table:
    """Compile mode and what became of it, and the kernels that served: one line per leg, of all its blocks."""
    rows: list[list[Cell]] = []
    for leg in snapshot.plan.legs:
        trials = snapshot.of_leg(leg.name)
        begun = [t for t in trials if t.facts]
        if not trials:
            continue
        statuses = [_compile_status(t) for t in trials]
        pauses = [s for t in trials if (s := between_legs_s(snapshot, t)) is not None]
        first_steps = [t.rows[0].dt_ms / 1000 for t in trials if t.rows]
        starts = [attempt.facts for t in begun for attempt in t.attempts if attempt.facts]
        kernels = [", ".join(f"{role} {k}" for role, k in sorted(f.get("backends", {}).items())) for f in starts]
        rows.append(
            [
                code_cell(leg.name),
                text_cell(leg.config.compile.mode),
                text_cell(_each_once(word for word, _ in statuses), statuses[0][1] if len(set(statuses)) == 1 else ""),
                text_cell(_each_once(f.get("compile_cache", "") for f in starts)),
                number_cell(sum(num_recompilations(t.rows) for t in trials)),
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
    """Which trials went on uncompiled, and why."""
    return [
        (
            Code(t.run),
            " went on uncompiled, so it is compared with no other: ",
            _why_fallen_back(t),
        )
        for t in snapshot.trials
        if t.fell_back
    ]


def preflight_table(snapshot: Snapshot) -> Table:
    """What the few steps before the launch have shown of each leg."""
    rows = [
        [
            code_cell(r.leg),
            text_cell(r.state, r.state),
            number_cell(r.first_step_s, 1),
            number_cell(r.peak_mib, 0),
            text_cell(r.error or ("could not be compiled, runs uncompiled" if r.fell_back else "-")),
        ]
        for r in snapshot.preflight
    ]
    columns = [
        Column(heading="leg"),
        Column(heading="status"),
        Column(heading="first step s", kind="number"),
        Column(heading="peak MiB", kind="number"),
        Column(heading="error"),
    ]
    return Table(caption="Three steps of each leg before the launch", columns=columns, rows=rows)


def interruption_lines(snapshot: Snapshot) -> list[Words]:
    """What was cut off or failed, where it went on, and how many steps were repeated."""
    lines: list[Words] = []
    for trial in snapshot.trials:
        last = len(trial.attempts) - 1
        for i, attempt in enumerate(trial.attempts):
            following = trial.attempts[i + 1] if i < last else None
            if following is not None or trial.state in ("interrupted", "failed"):
                lines.append(_interruption(trial, attempt, following))
    return lines


def skipped_lines(snapshot: Snapshot) -> list[Words]:
    """Which trials have steps that changed nothing, because a gradient was not finite."""
    found = [(t, [row.step for row in t.rows if "skipped" in row.flags]) for t in snapshot.trials]
    return [
        (
            Code(t.run),
            f" skipped {len(steps)} of {len(t.rows)} steps, whose gradient was not finite; the last is {steps[-1]}",
        )
        for t, steps in found
        if steps
    ]


def provenance_table(snapshot: Snapshot) -> Table:
    """Where the numbers come from."""
    m = snapshot.manifest
    devices = sorted({_device(t) for t in snapshot.trials if t.facts})
    commit = "unknown" if m.git_commit is None else m.git_commit
    changed = " with uncommitted changes (in manifest.json)" if m.git_diff else ""
    rows: list[tuple[str, Words]] = [
        ("experiment", (Code(m.id),)),
        ("launched (UTC)", (m.created_utc,)),
        ("command", (Code(shlex.join(m.argv)),)),
        ("code", (Code(commit), changed)),
        ("plan sha256", (Code(m.plan_digest),)),
        ("trials", (f"{len(snapshot.plan.legs)} legs x {snapshot.plan.num_blocks} blocks",)),
        ("devices", ("; ".join(devices) or "-",)),
        ("versions", (", ".join(f"{name} {version}" for name, version in sorted(m.versions.items())) or "-",)),
    ]
    return Table(
        caption="Provenance",
        columns=[Column(heading="what"), Column(heading="value")],
        rows=[[text_cell(what), Cell(words=words)] for what, words in rows],
        sortable=False,
    )


def origin_lines(snapshot: Snapshot) -> list[Words]:
    """Which trials were measured elsewhere: by another experiment, at another time, perhaps by other code."""
    return [
        (
            Code(t.run),
            " was taken over from experiment ",
            Code(t.origin.experiment),
            ", which ran it with the same config at commit ",
            Code("unknown" if t.origin.git_commit is None else t.origin.git_commit),
        )
        for t in snapshot.trials
        if t.origin is not None
    ]


def damage_lines(snapshot: Snapshot) -> list[Words]:
    """Which files were not whole."""
    return [(Code(f), " is torn: its whole lines are used, the rest is ignored") for f in snapshot.torn_files]


def artifact_lines(snapshot: Snapshot) -> list[Words]:
    """What lies where, relative to the experiment's folder."""
    begun = [t for t in snapshot.trials if t.attempts]
    logs: list[Words] = [(Code(t.log_name), ": whole output of ", Code(t.run)) for t in begun]
    if len(begun) > _MANY_TRIALS:
        logs = [(Code("trials/TRIAL/log.txt"), ": whole output of each trial")]
    return [
        (Code("export/legs.parquet"), ": one row per trial"),
        (Code("export/steps.parquet"), ": each step of each trial once"),
        (Code("manifest.json"), ": the plan with every config, the command, the versions"),
        *logs,
    ]


def _each_once(words: Iterable[str]) -> str:
    """Different words in their first order; "-" for none."""
    return " / ".join(dict.fromkeys(word for word in words if word)) or "-"


def _why_fallen_back(trial: TrialSnapshot) -> str:
    told = [attempt.facts.get("compile_fallback") for attempt in trial.attempts if attempt.facts]
    return next((why for why in told if why), "")


def _compile_status(trial: TrialSnapshot) -> tuple[str, str]:
    """What became of compilation, and its tone."""
    if trial.trial.config.compile.mode == "none":
        return "not compiled", ""
    if trial.fell_back:
        return "failed, went on uncompiled", "failed"
    if not trial.rows:
        return ("failed before the first step", "failed") if trial.state == "failed" else ("-", "")
    return ("recompiled on the way", "outside") if num_recompilations(trial.rows) else ("ok", "within")


def _interruption(trial: TrialSnapshot, attempt: AttemptRecord, following: AttemptRecord | None) -> Words:
    span = trial.spans.get(attempt.number)
    steps = f"stored steps {span[0]} to {span[1]}" if span else "stored no step"
    how = {
        "failed": "failed",
        "stopped": "was stopped",
        "completed": "ended before its result was written",
        "interrupted": "was interrupted",
        None: "was cut off",
    }[attempt.end]
    line: list[Piece] = [Code(trial.run), f": attempt {attempt.number} on {attempt.host} {steps} and {how}"]
    if attempt.error is not None:
        error = f": {attempt.error.type}: {attempt.error.message}"
        line += [error[:300], " (log: ", Code(trial.log_name), ")"]
    if following is None:
        line += ["."] if attempt.end == "failed" else ["; ", Code("nanochat-sweep restore"), " continues it."]
    elif following.first_step is None:
        line.append(f"; attempt {following.number} followed.")
    else:
        reached = max((trial.spans[n][1] for n in trial.spans if n <= attempt.number), default=-1)
        repeated = max(0, reached + 1 - following.first_step)
        line.append(
            f"; attempt {following.number} went on from step {following.first_step} ({repeated} steps repeated)."
        )
    return tuple(line)


def _device(trial: TrialSnapshot) -> str:
    facts = trial.facts
    return f"{facts.get('world_size')} x {facts.get('device_name') or facts.get('device')}"


def cpu_warning(snapshots: Snapshots) -> list[Block]:
    """What trials on a CPU cannot tell."""
    if not any(t.facts.get("device") == "cpu" for s in snapshots for t in s.trials):
        return []
    words: Words = (
        Strong("These trials ran on a CPU: their speed ranking of compile modes and of precisions means nothing."),
        " Only a GPU can tell; losses and the whole path from launch to report are real.",
    )
    return [Paragraph(words=words)]
