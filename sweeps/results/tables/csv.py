"""summary.csv and steps.csv, laid out as the reference's scripts write and read them.

Digits are theirs: the summary's are fixed, those of the steps are the log line's without trailing zeros. What is not
known is an empty cell, never a zero. A text that a spreadsheet would take for a formula gets an apostrophe before it.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

from sweeps.records.documents import COMPLETED_STATES
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec.words import one_line

SUMMARY_HEADINGS = (
    *("run", "status", "steps_observed", "last_step", "last_loss", "tail50_tok_sec", "tail50_bf16_mfu"),
    *("tail50_dt_ms", "peak_mem_mib", "total_time_min", "error_line"),
)
STEP_HEADINGS = ("run", "step", "loss", "bal", "dt_ms", "tok_sec", "bf16_mfu")
_NUMBERS = (
    *(("last_loss", 6), ("tail50_tok_per_sec", 2), ("tail50_bf16_mfu_pct", 4), ("tail50_dt_ms", 2)),
    *(("peak_mib", 2), ("total_time_min", 2)),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_files(snapshot: Snapshot) -> dict[str, bytes]:
    """Both files by name, in the order of the plan."""
    summary = [_summary_row(trial) for trial in snapshot.trials]
    steps = [row for trial in snapshot.trials for row in _step_rows(trial)]
    return {"summary.csv": _file(SUMMARY_HEADINGS, summary), "steps.csv": _file(STEP_HEADINGS, steps)}


def _summary_row(trial: TrialSnapshot) -> list[str]:
    m = trial.measures
    counts = [str(m.steps_observed), "" if m.last_step is None else str(m.last_step)]
    numbers = [_fixed(trial.shown(name), digits) for name, digits in _NUMBERS]
    return [safe_text(trial.run), _status(trial), *counts, *numbers, safe_text(_error_line(trial))]


def _status(trial: TrialSnapshot) -> str:
    """The reference's four words: it knows no interruption, and takes a run without an end for one that runs."""
    if trial.state in COMPLETED_STATES:
        return "completed"
    if trial.state == "failed":
        return "failed"
    return "running" if trial.steps else "unknown"


def _error_line(trial: TrialSnapshot) -> str:
    if trial.imported is not None:
        return one_line(trial.imported.error or "")
    error = trial.attempts[-1].error if trial.attempts else None
    return one_line(f"{error.type}: {error.message}") if error else ""


def _step_rows(trial: TrialSnapshot) -> list[list[str]]:
    steps, run = trial.steps.fresh(), safe_text(trial.run)
    columns: Sequence[Sequence[Any]] = (
        [str(step) for step in steps.ints("step")],
        [_short(loss, 6) for loss in steps.known("loss_ema")],
        [_short(bal, 4) for bal in steps.known("bal")],
        [_short(dt_ms, 2) for dt_ms in steps.known("dt_ms")],
        [_fixed(speed, 0) for speed in steps.known("tok_per_sec")],
        [_short(mfu, 2) for mfu in steps.known("bf16_mfu_pct" if trial.imported is None else "bf16_mfu_printed_pct")],
    )
    return [[run, *row] for row in zip(*columns, strict=True)]


def safe_text(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _fixed(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _short(value: float | None, digits: int) -> str:
    """Rounded, without trailing zeros: 24.0, 9.3."""
    return "" if value is None else str(round(float(value), digits))


def _file(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headings, *rows])
    return text.getvalue().encode(errors="backslashreplace")
