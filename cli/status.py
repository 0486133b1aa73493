"""`status`: how an experiment stands, from storage alone, also while it runs."""

import json
from typing import Annotated

import typer

from cli.options import AsJson, Exp, Storage

LEAST = ("steps_observed", "tail50_mfu", "tail50_dt_ms", "total_time_min", "peak_mem_mib")
"""What a narrow terminal does without, in this order."""


def status(
    exp: Exp,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until the experiment stops.")] = False,
    storage: Storage = None,
) -> None:
    """Print the state of every trial and its numbers so far."""
    from cli.console import out
    from cli.fitting import fitted, terminal_columns
    from cli.stored import open_snapshot
    from sweeps.results.measures.untimed import untimed_trials
    from sweeps.results.status import failure_of, run_table, status_json
    from sweeps.spec.errors import UsageError
    from sweeps.spec.words import one_line

    if watch and as_json:
        raise UsageError("--watch and --json exclude each other: call `status --json` as often as you like")
    if watch:
        _watch(exp, storage)
        return
    _, snapshot = open_snapshot(exp, storage)
    if as_json:
        out(json.dumps(status_json(snapshot), indent=2, ensure_ascii=False, allow_nan=False))
        return
    headers, *rows = run_table(snapshot)
    out(f"{snapshot.manifest.id}: {snapshot.state}\n")
    shown, left_out = fitted(headers, rows, columns=terminal_columns(), right=headers[2:], dropped_first=LEAST)
    out(shown)
    if left_out:
        out(f"(a wider terminal also shows {', '.join(left_out)}; --json has all)")
    for trial in snapshot.trials:
        if trial.imported is not None and snapshot.manifest.imported_from is None:
            seen = trial.imported
            out(f"{trial.run} was read from {seen.file}, lines {seen.first_line} to {seen.last_line}")
        elif trial.origin is not None:
            out(f"{trial.run} was taken over from experiment {trial.origin.experiment}")
        if trial.fell_back:
            out(f"{trial.run} could not be compiled and continued uncompiled: its speed is not the leg's")
        if trial.diverged is not None:
            out(f"{trial.run} diverged: {trial.diverged}")
        failure = failure_of(snapshot, trial)
        if failure is not None:
            out(f"{trial.run} failed: {one_line(failure.error)}\n  log: {failure.log}\n  next: {failure.next_command}")
    for trial, why in untimed_trials(snapshot):
        out(f"{trial.run} has no timing: {why}")


def _watch(exp: str, storage: str | None) -> None:
    from cli.live import watch
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import find_experiment

    watch(Experiment.open(find_experiment(exp, storage)))
