"""Where the numbers come from and where the files are."""

import shlex
from typing import Any
from urllib.parse import quote

from sweeps.records.layout import TrialFolders
from sweeps.results.measures.conditions import NO_CHANGES, commit_of
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import ABOVE, Cell, Code, Column, Link, Piece, Table, Words, text_cell
from sweeps.spec.words import counted

_MANY_TRIALS = 12  # from which one line stands for all logs


def provenance_table(snapshot: Snapshot) -> Table:
    """Where the numbers come from."""
    m = snapshot.manifest
    devices = sorted({_device(a.facts) for t in snapshot.trials for a in t.attempts if a.facts})
    devices += sorted({_device(t.facts) for t in snapshot.trials if t.imported and t.facts.get("device_name")})
    rows: list[tuple[str, Words]] = [
        ("experiment", (Code(m.id),)),
        *_origin_rows(snapshot),
        ("plan sha256", (Code(m.plan_digest),)),
        ("trials", (_trials(snapshot),)),
        ("devices", ("; ".join(devices) or "-",)),
        ("versions", (_versions(snapshot),)),
    ]
    return Table(
        caption="Provenance",
        columns=[Column(heading="what"), Column(heading="value")],
        rows=[[text_cell(what), Cell(words=words)] for what, words in rows],
        sortable=False,
    )


def _origin_rows(snapshot: Snapshot) -> list[tuple[str, Words]]:
    """Who launched it with which code, or from which logs it was read."""
    m = snapshot.manifest
    if m.imported_from is not None:
        return [("imported (UTC)", (m.created_utc,)), ("from", (Code(m.imported_from),))]
    return [
        ("launched (UTC)", (m.created_utc,)),
        ("command", (Code(shlex.join(m.argv)),)),
        ("code", _code(snapshot)),
    ]


def imported_lines(snapshot: Snapshot) -> list[Words]:
    """Which trials were read from logs, from which lines, and what is not known of them."""
    return [
        (
            Code(t.run),
            " was read from ",
            Code(t.imported.file),
            f", lines {t.imported.first_line} to {t.imported.last_line}, sha256 {t.imported.sha256[:12]}",
            f"; {t.imported.why_no_config}" if t.imported.why_no_config else "",
            f"; failed: {t.imported.error}"[:300] if t.imported.error else "",
        )
        for t in snapshot.trials
        if t.imported is not None
    ]


def origin_lines(snapshot: Snapshot) -> list[Words]:
    """Which trials were measured elsewhere: by another experiment, at another time, perhaps by other code."""
    return [
        (
            Code(t.run),
            " was taken over from experiment ",
            Code(t.origin.experiment),
            ", which ran it with the same config at commit ",
            Code(commit_of(snapshot, t) or "unknown"),
        )
        for t in snapshot.trials
        if t.origin is not None and t.imported is None
    ]


def artifact_lines(snapshot: Snapshot, *, linked: bool) -> list[Words]:
    """What lies where, relative to the experiment's folder; with links for a report that is in it."""
    begun = [t for t in snapshot.trials if t.attempts]
    logs: list[Words] = [(_file(t.log_name, linked=linked), ": whole output of ", Code(t.run)) for t in begun]
    if len(begun) > _MANY_TRIALS:
        logs = [(Code(TrialFolders("TRIAL").log), ": whole output of each trial")]
    tables = {
        "export/legs.parquet": "one row per trial",
        "export/steps.parquet": "each step of each trial once",
        "export/events.parquet": "what happened to each trial",
        "export/verdicts.parquet": "the verdict per gate, and per leg in speed",
        "manifest.json": "the plan with every config, the command, the versions",
    }
    return [*((_file(path, linked=linked), f": {meaning}") for path, meaning in tables.items()), *logs]


def _file(path: str, *, linked: bool) -> Piece:
    return Link(path, ABOVE + quote(path)) if linked else Code(path)


def _code(snapshot: Snapshot) -> Words:
    """The commits that ran what is measured, each with its trials if there are several."""
    trials_of: dict[tuple[str, bool], list[str]] = {}
    for trial in snapshot.trials:
        if trial.steps:
            attempt, commit = trial.measured_attempt, commit_of(snapshot, trial) or "unknown"
            digest = attempt.git_diff_digest if attempt is not None else None
            has_changes = bool(snapshot.manifest.git_diff) if digest is None else digest != NO_CHANGES
            trials_of.setdefault((commit, has_changes), []).append(trial.run)
    if not trials_of:
        trials_of[snapshot.manifest.git_commit or "unknown", bool(snapshot.manifest.git_diff)] = []
    words: list[Piece] = []
    for (commit, has_changes), runs in trials_of.items():
        words += ["; " if words else "", Code(commit), " with uncommitted changes" if has_changes else ""]
        words += [f" ({', '.join(runs)})"] if len(trials_of) > 1 else []
    return tuple(words)


def _versions(snapshot: Snapshot) -> str:
    """Of the launch, and what other attempts had instead."""
    launch = snapshot.manifest.versions
    seen: dict[str, list[str]] = {name: [version] for name, version in launch.items()}
    for trial in snapshot.trials:
        for attempt in trial.attempts:
            for name, version in (attempt.versions or {}).items():
                seen.setdefault(name, []).append(version)
    each = [f"{name} {' / '.join(dict.fromkeys(versions))}" for name, versions in sorted(seen.items())]
    return ", ".join(each) or "-"


def _trials(snapshot: Snapshot) -> str:
    num_legs = len({trial.trial.leg.name for trial in snapshot.trials})
    return (
        f"{counted(len(snapshot.trials), 'trial')}: {counted(num_legs, 'leg')} x "
        f"{counted(snapshot.plan.num_blocks, 'block')}"
    )


def _device(facts: dict[str, Any]) -> str:
    return f"{facts.get('world_size')} x {facts.get('device_name') or facts.get('device')}"
