"""How an experiment stands: the JSON that scripts rely on, and the run summary that terminal and report share."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from sweeps.records.home import typed_name
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec.metrics import METRICS
from sweeps.spec.words import fixed

RUN_METRICS = tuple(metric for metric in METRICS if metric.status_name is not None)
"""What the run summary holds of a trial's numbers, under the names that people know from training logs."""


@dataclass(frozen=True, kw_only=True)
class TrialFailure:
    """Why a trial failed and what to do about it."""

    error: str
    log: str  # its address
    next_command: str


def trial_status(trial: TrialSnapshot) -> dict[str, Any]:
    """One trial under the reference's metric names. None: unknown."""
    m = trial.measures
    return {
        "name": trial.run,
        "leg": trial.trial.leg.name,
        "block": trial.trial.block,
        "status": trial.state,
        "attempts": trial.num_attempts,
        "host": trial.attempts[-1].ran_on if trial.attempts else None,
        "node_id": trial.attempts[-1].node_id if trial.attempts else None,  # of Ray, if its block is bound to a node
        "steps_observed": m.steps_observed,
        "last_step": m.last_step,
        **{metric.status_name: trial.shown(metric.name) for metric in RUN_METRICS if metric.status_name},
        "origin": trial.origin.experiment if trial.origin else None,  # which experiment ran it, if it was another one
        "fell_back": trial.fell_back,  # ran uncompiled because compiling failed; its speed is not the leg's
        "diverged": trial.diverged,  # why it has learnt nothing, if so
        "damage": trial.damage,  # why its files cannot be read, if so; then nothing else is known of it
    }


def failure_of(snapshot: Snapshot, trial: TrialSnapshot) -> TrialFailure | None:
    """Why a trial failed; None if it did not."""
    if trial.state != "failed":
        return None
    if trial.imported is not None:
        return TrialFailure(
            error=trial.imported.error or "its log says no more",
            log=trial.imported.file,
            next_command=f"nanochat-sweep launch SWEEP --continue-from {typed_name(snapshot.uri)}",
        )
    error = trial.attempts[-1].error if trial.attempts else None
    return TrialFailure(
        error=f"{error.type}: {error.message}" if error else "its error was not stored",
        log=log_of(snapshot, trial),
        next_command=f"nanochat-sweep retry {typed_name(snapshot.uri)} --legs {trial.run}",
    )


def status_json(snapshot: Snapshot) -> dict[str, Any]:
    """The document of `status --json`; what is unknown or no finite number is null."""
    trials: list[dict[str, Any]] = []
    for trial in snapshot.trials:
        failure = failure_of(snapshot, trial)
        known: dict[str, Any] = {"failure": None if failure is None else dataclasses.asdict(failure)}
        known |= {"error": None, "log": None, "next_command": None} if failure is None else known["failure"] or {}
        known["log"] = known["log"] or (log_of(snapshot, trial) if trial.attempts else None)
        values = trial_status(trial) | _progress(trial)
        trials.append({key: _finite(value) for key, value in values.items()} | known)
    return {
        "schema": "nanochat-sweep/status/1",
        "experiment": snapshot.manifest.id,
        "path": snapshot.uri,
        "state": snapshot.state,
        "next_command": next_command(snapshot),
        "trials": trials,
    }


def next_command(snapshot: Snapshot) -> str:
    """What to type next: resume what was cut off, watch what runs, decide what is done."""
    exp = typed_name(snapshot.uri)
    if snapshot.manifest.imported_from is not None:
        return f"nanochat-sweep report {exp}"
    if snapshot.state == "completed_with_failures":
        return f"nanochat-sweep retry {exp}"
    verb = {"interrupted": "restore {}", "running": "status {} --watch"}.get(snapshot.state, "gate {}")
    return f"nanochat-sweep {verb.format(exp)}"


def log_of(snapshot: Snapshot, trial: TrialSnapshot) -> str:
    """Where the output of a trial is."""
    return f"{snapshot.uri.rstrip('/')}/{trial.log_name}"


def _progress(trial: TrialSnapshot) -> dict[str, Any]:
    """The numbers that gates see, and the last stored step: whether a running trial still makes progress."""
    last = trial.steps[-1:]
    return {
        "loss": trial.measures["loss"],
        "tok_per_sec": trial.measures["tok_per_sec"],
        "num_steps": last.known("num_steps")[0] if last else None,
        "last_step_utc": last.texts("done_utc")[0] if last else None,
        "last_step_dt_ms": last.known("dt_ms")[0] if last else None,
        "last_step_tok_sec": last.known("tok_per_sec")[0] if last else None,
    }


def run_table(snapshot: Snapshot) -> list[list[str]]:
    """The run summary: headings, then one line of text per trial, "-" for what is unknown."""
    has_nodes = any(trial.node for trial in snapshot.trials)
    headings = ["run", "status", "steps_observed", "last_step", *(metric.run_heading for metric in RUN_METRICS)]
    lines = [[*headings, *(["node"] if has_nodes else [])]]
    for trial in snapshot.trials:
        m = trial.measures
        counts = ["-" if count is None else str(count) for count in (m.steps_observed, m.last_step)]
        numbers = [number(trial.shown(metric.name), metric.digits) for metric in RUN_METRICS]
        where = [trial.node or "-"] if has_nodes else []
        lines.append([trial.run, shown_state(trial), *counts, *numbers, *where])
    return lines


def shown_state(trial: TrialSnapshot) -> str:
    """The state as people read it: a trial that ran to its end and learnt nothing is not just completed."""
    return "diverged" if trial.state == "completed" and trial.diverged else trial.state


def number(value: float | None, digits: int) -> str:
    """A value as text with fixed digits, "-" for unknown."""
    return "-" if value is None else fixed(value, digits)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
