"""`import`: an experiment from a folder of logs that another trainer has written."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import AsJson, Storage

if TYPE_CHECKING:
    from sweeps.importer.experiment import ImportedRun
    from sweeps.importer.folder import LogFolder
    from sweeps.records.experiment import Experiment

SHOWN_LINES = 5  # of each kind that was skipped


def import_logs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of torchrun logs, one or more runs in each.")],
    name: Annotated[str | None, typer.Option(help="Experiment id. Default: YYYYMMDD_HHMMSS_DIR.")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="RUN", help="Run that others are held against. Default: first completed.")
    ] = None,
    candidate: Annotated[str | None, typer.Option(metavar="RUN", help="Run that `gate` judges, as advice.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print what became of each file's lines.")] = False,
    as_json: AsJson = False,
    storage: Storage = None,
) -> None:
    """Make an experiment from a folder of training logs.

    report, gate, status, export and ls read it. Numbers that no line says stay unknown.
    """
    from datetime import datetime

    from cli.console import note, out, table
    from sweeps.importer.experiment import plan_of, read_runs, store_runs
    from sweeps.importer.folder import read_folder
    from sweeps.records.home import check_on_disk, new_experiment_id, storage_root, typed_name
    from sweeps.results.measures.snapshot import read_snapshot
    from sweeps.results.status import run_table
    from sweeps.spec.names import check_name

    check_on_disk("import", folder)
    found = read_folder(folder.expanduser().absolute())
    runs = read_runs(found)
    sweep = _plain_name(found.path.name)
    plan = plan_of(runs, sweep, baseline, candidate)
    id = check_name("experiment", new_experiment_id(sweep, datetime.now()) if name is None else name)
    experiment = store_runs(storage_root(storage), id, found, runs, plan)
    if as_json:
        out(json.dumps(import_json(experiment, found, runs), indent=2, ensure_ascii=False, allow_nan=False))
        return
    snapshot = read_snapshot(experiment)
    headers, *rows = run_table(snapshot)
    out(table(headers, rows, right=headers[2:]))
    if explain:
        out("\n" + "\n".join(explained(found, runs)))
    for line in import_notes(found, runs, plan.baseline.name):
        note(line)
    note(f"imported as {id}; next: nanochat-sweep report {typed_name(experiment.uri)}")


def import_notes(found: "LogFolder", runs: "list[ImportedRun]", baseline: str) -> list[str]:
    """What must not be missed: runs without a config, lines that were skipped, which run is the baseline."""
    lines = [f"{run.found.name}: {run.why_no_config}" for run in runs if run.why_no_config]
    skipped = sum(n for log in found.logs for what, n in log.counts.items() if what.startswith("skipped: "))
    if skipped:
        lines.append(f"{skipped:,} parts of lines look like known ones and could not be used; --explain shows them")
    lines += [f"{file} was left out: {why}" for file, why in found.unused.items()]
    return [*lines, f"the baseline is {baseline}"]


def explained(found: "LogFolder", runs: "list[ImportedRun]") -> list[str]:
    """For each file what its lines were, with examples of those that could not be used."""
    lines: list[str] = []
    for log in found.logs:
        lines.append(f"{log.path.name}: {log.num_lines:,} lines, sha256 {log.sha256[:12]}")
        lines += [f"  {count:,} {what}" for what, count in log.counts.items()]
        shown: dict[str, int] = {}
        for skip in log.skipped:
            shown[skip.why] = shown.get(skip.why, 0) + 1
            if shown[skip.why] <= SHOWN_LINES:
                lines.append(f"  line {skip.line}: {skip.why}: {skip.text[:100]}")
        for run in runs:
            if run.found.log is log:
                span = f"lines {run.found.run.first_line} to {run.found.run.last_line}"
                lines.append(f"  run {run.found.name}: {span}, {run.found.state}, {len(run.rows):,} steps")
                lines += [f"    {count:,} {why}" for why, count in run.lost.items()]
    return lines


def import_json(experiment: "Experiment", found: "LogFolder", runs: "list[ImportedRun]") -> dict[str, Any]:
    """What `--json` prints."""
    from sweeps.results.measures.snapshot import read_snapshot
    from sweeps.results.status import status_json

    snapshot = read_snapshot(experiment)
    trials = status_json(snapshot)["trials"]
    return {
        "schema": "nanochat-sweep/import/1",
        "experiment": experiment.id,
        "path": experiment.uri,
        "source": str(found.path),
        "baseline": experiment.plan.baseline.name,
        "candidate": experiment.plan.candidate.name if experiment.plan.candidate else None,
        "runs": [
            {
                **trial,
                "log_status": run.found.state,
                "file": str(run.found.log.path),
                "first_line": run.found.run.first_line,
                "last_line": run.found.run.last_line,
                "command": list(run.found.command.argv) if run.found.command else None,
                "why_no_config": run.why_no_config,
                "lost": dict(run.lost),
            }
            for trial, run in zip(trials, runs, strict=True)
        ],
        "files": [
            {
                "file": str(log.path),
                "sha256": log.sha256,
                "lines": log.num_lines,
                "counts": log.counts,
                "skipped": [{"line": s.line, "why": s.why, "text": s.text} for s in log.skipped],
            }
            for log in found.logs
        ],
        "unused": found.unused,
    }


def _plain_name(name: str) -> str:
    """The folder's name as that of a sweep."""
    import re

    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60].lstrip("._-") or "logs"
