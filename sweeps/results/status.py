"""How an experiment stands: the JSON that scripts rely on, and the run summary that terminal and report share."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from sweeps.records.documents import TrialState
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.trial import measure


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """One trial under the reference's metric names. None: unknown."""

    name: str
    leg: str
    block: int
    status: TrialState
    attempts: int
    steps_observed: int
    last_step: int | None
    last_loss: float | None
    tail50_tok_sec: float | None
    tail50_bf16_mfu: float | None
    tail50_dt_ms: float | None
    peak_mem_mib: float | None
    total_time_min: float | None
    origin: str | None  # the experiment that ran it, where it was taken over from another one
    fell_back: bool  # went on uncompiled because compiling failed; its speed is not the leg's


def trial_status(trial: TrialSnapshot, window_steps: int) -> TrialStatus:
    """The status of one trial."""
    m = measure(trial.rows, window_steps)
    return TrialStatus(
        name=trial.run,
        leg=trial.trial.leg.name,
        block=trial.trial.block,
        status=trial.state,
        attempts=len(trial.attempts),
        steps_observed=m.steps_observed,
        last_step=m.last_step,
        last_loss=m.last_loss,
        tail50_tok_sec=m.tail50_tok_per_sec,
        tail50_bf16_mfu=m.tail50_bf16_mfu_pct,
        tail50_dt_ms=m.tail50_dt_ms,
        peak_mem_mib=m.peak_mib,
        total_time_min=m.total_time_min,
        origin=trial.origin.experiment if trial.origin else None,
        fell_back=trial.fell_back,
    )


def status_json(snapshot: Snapshot) -> dict[str, Any]:
    """The document of `status --json`; what is unknown or no finite number is null."""
    trials = [dataclasses.asdict(trial_status(t, snapshot.plan.window_steps)) for t in snapshot.trials]
    return {
        "schema": "nanochat-sweep/status/1",
        "experiment": snapshot.manifest.id,
        "state": snapshot.state,
        "trials": [{key: _finite(value) for key, value in trial.items()} for trial in trials],
    }


# Heading of each column and the digits after its point.
RUN_COLUMNS: dict[str, tuple[str, int | None]] = {
    "name": ("run", None),
    "status": ("status", None),
    "steps_observed": ("steps_observed", None),
    "last_step": ("last_step", None),
    "last_loss": ("last_loss", 4),
    "tail50_tok_sec": ("tail50_tok/sec", 0),
    "tail50_bf16_mfu": ("tail50_mfu", 2),
    "tail50_dt_ms": ("tail50_dt_ms", 1),
    "peak_mem_mib": ("peak_mem_mib", 0),
    "total_time_min": ("total_time_min", 2),
}


def run_table(snapshot: Snapshot) -> list[list[str]]:
    """The run summary: headings, then one line of text per trial, "-" for what is unknown."""
    lines = [[heading for heading, _ in RUN_COLUMNS.values()]]
    for trial in snapshot.trials:
        values = vars(trial_status(trial, snapshot.plan.window_steps))
        lines.append([number(values[name], digits) for name, (_, digits) in RUN_COLUMNS.items()])
    return lines


def number(value: float | str | None, digits: int | None) -> str:
    """A value as text: fixed digits for a float, "-" for unknown."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if digits is not None and not isinstance(value, str) else str(value)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
