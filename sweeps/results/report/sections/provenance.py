"""Where the numbers come from and where the files are."""

import shlex

from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.report.blocks import Cell, Code, Column, Table, Words, text_cell

_MANY_TRIALS = 12  # from which one line stands for all logs


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


def _device(trial: TrialSnapshot) -> str:
    facts = trial.facts
    return f"{facts.get('world_size')} x {facts.get('device_name') or facts.get('device')}"
