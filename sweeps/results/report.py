"""The Markdown report with its two figures: a pure function of the stored data, byte for byte.

No time of generation, no absolute path, fixed digits and order: a committed report changes only where numbers changed.
It leads with what may be concluded. With plain ratios that is advice, and it says so.
"""

import os
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2

from sweeps.records.experiment import Experiment
from sweeps.records.store import Store
from sweeps.results.markdown import code, text
from sweeps.results.parquet import export_snapshot, export_store
from sweeps.results.plots import Line, Point, line_chart
from sweeps.results.sections import (
    artifact_lines,
    compile_table,
    damage_lines,
    interruption_lines,
    provenance_table,
    ratio_note,
    ratio_table,
    remarks,
    run_summary,
    verdict,
)
from sweeps.results.snapshot import Snapshot, read_snapshot
from sweeps.results.tail import counted


def write_report(experiment: Experiment, out_md: Path | None = None) -> str:
    """Writes the report and its figures beside it, by default into EXP/report; the report's address."""
    return report_snapshot(read_snapshot(experiment), experiment, out_md)


def report_snapshot(snapshot: Snapshot, experiment: Experiment, out_md: Path | None = None) -> str:
    """Writes the report of one snapshot."""
    folder = Store(str(out_md.parent)) if out_md else Store(experiment.store.uri_of("report"))
    name = out_md.name if out_md else "report.md"
    for file, body in report_files(snapshot, name).items():
        folder.write(file, body.encode())
    return folder.uri_of(name)


def refresh(experiment: Experiment) -> None:
    """Export and report of the present moment; what a running experiment calls after each leg."""
    snapshot = read_snapshot(experiment)
    export_snapshot(snapshot, export_store(experiment, None))
    report_snapshot(snapshot, experiment)


def report_files(snapshot: Snapshot, name: str) -> dict[str, str]:
    """The figures and then the report that shows them, by file name."""
    stem = PurePosixPath(name).stem
    figures = {f"{stem}-dt.svg": dt_figure(snapshot), f"{stem}-loss.svg": loss_figure(snapshot)}
    dt_name, loss_name = figures
    return {**figures, name: _render(snapshot, dt_name, loss_name)}


def dt_figure(snapshot: Snapshot) -> str:
    """Wall time per step of every trial."""
    return line_chart(
        _lines(snapshot, "dt_ms"),
        title=f"{snapshot.manifest.sweep}: time per step",
        y_label="ms on the slowest rank, logarithmic",
        description="Wall time of each optimizer step per leg; faint where the step does not count for timing.",
        log_y=True,
    )


def loss_figure(snapshot: Snapshot) -> str:
    """Averaged loss per step of every trial."""
    return line_chart(
        _lines(snapshot, "loss_ema"),
        title=f"{snapshot.manifest.sweep}: loss per step",
        y_label="nats per token, debiased average",
        description="Debiased exponential average of the training loss at each optimizer step per leg.",
    )


def _lines(snapshot: Snapshot, field: str) -> list[Line]:
    looks = {leg.name: i for i, leg in enumerate(snapshot.plan.legs)}
    lines: list[Line] = []
    for trial in snapshot.trials:
        marks = counted(trial.rows) if field == "dt_ms" else [True] * len(trial.rows)
        points = [
            Point(x=row.step, y=getattr(row, field), faint=not counts)
            for row, counts in zip(trial.rows, marks, strict=True)
        ]
        lines.append(Line(label=trial.trial.leg.name, look=looks[trial.trial.leg.name], points=points))
    return lines


def _render(snapshot: Snapshot, dt_name: str, loss_name: str) -> str:
    word, sentence = verdict(snapshot)
    values: dict[str, Any] = {
        "title": f"{text(snapshot.manifest.sweep)}: {code(snapshot.manifest.id)}",
        "question": text(snapshot.plan.question),
        "verdict_word": word,
        "verdict": sentence,
        "remarks": remarks(snapshot),
        "ratio_table": ratio_table(snapshot),
        "ratio_note": ratio_note(snapshot),
        "state": snapshot.state,
        "run_table": run_summary(snapshot),
        "dt_figure": dt_name,
        "loss_figure": loss_name,
        "compile_table": compile_table(snapshot),
        "interruptions": interruption_lines(snapshot),
        "damaged": damage_lines(snapshot),
        "provenance_table": provenance_table(snapshot),
        "artifacts": artifact_lines(snapshot),
    }
    folder = os.path.join(os.path.dirname(__file__), "templates")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown; every name is escaped where its section is made
    )
    return environment.get_template("report.md.j2").render(values)
