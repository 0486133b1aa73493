"""The steps of a logged run as rows. What a line does not say is null; nothing is filled in.

Peak memory and total time of the last lines belong to the last step. An evaluation is stored with the step before it,
as our own trainer does; where lines are printed now and then only, with the last printed step before it.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import Any

from nanochat.stats import WARMUP_STEPS
from sweeps.importer.facts import logged_mfu_pct
from sweeps.importer.lines import EvalLine
from sweeps.importer.logs import LoggedRun, LoggedStep
from sweeps.records.rows import StepRow

_METRICS = {"val_bpb": "val_bpb", "core": "core_metric"}


def rows_of(run: LoggedRun, *, trial: str, facts: dict[str, Any]) -> tuple[list[StepRow], Counter[str]]:
    """The rows in order, and how many evaluations found no step, by why."""
    steps = run.ordered()
    evaluated, lost = _evaluations(run.evaluations, [step.step for step in steps])
    evaluated_at = {line.step for line in run.evaluations}
    first_of = _first_steps(steps)
    rows = [
        _row(
            step,
            trial=trial,
            num_steps=run.num_steps,
            facts=facts,
            ends=run.ends if step is steps[-1] else {},
            evaluated=evaluated.get(step.step, {}),
            flags=tuple(_flags(step, first_of[step.attempt], evaluated_at)),
        )
        for step in steps
    ]
    return rows, lost


def _first_steps(steps: list[LoggedStep]) -> dict[int, int]:
    first: dict[int, int] = {}
    for step in steps:
        first.setdefault(step.attempt, step.step)
    return first


def _flags(step: LoggedStep, first: int, evaluated_at: set[int]) -> Iterator[str]:
    """Why a step's time may not count, as far as a log shows it."""
    if step.step < first + WARMUP_STEPS:
        yield "warmup"
    if step.attempt > 0 and step.step == first:
        yield "resumed"
    if step.step in evaluated_at:
        yield "eval"


def _row(
    step: LoggedStep,
    *,
    trial: str,
    num_steps: int | None,
    facts: dict[str, Any],
    ends: dict[str, float],
    evaluated: dict[str, float],
    flags: tuple[str, ...],
) -> StepRow:
    said = step.values
    minutes = ends.get("total_time_min", said.get("total_time_min"))
    epoch, tok_per_sec = said.get("epoch"), said.get("tok_per_sec")
    values: dict[str, Any] = {
        "trial": trial,
        "attempt": step.attempt,
        "step": step.step,
        "num_steps": num_steps,
        "loss": None,
        "loss_ema": said.get("loss"),
        "bal": said.get("bal"),
        "lr_mult": said.get("lr_mult"),
        "dt_ms": said.get("dt_ms"),
        "dt_median_ms": None,
        "slowest_rank": None,
        "tok_per_sec": tok_per_sec,
        "bf16_mfu_pct": logged_mfu_pct(tok_per_sec, facts),
        "bf16_mfu_printed_pct": said.get("bf16_mfu_printed_pct", said.get("mfu_printed_pct")),
        "useful_mfu_pct": None,
        "epoch": int(epoch) if epoch is not None and math.isfinite(epoch) else None,
        "train_time_s": None if minutes is None else 60 * minutes,
        "dropped_pct": None,
        "max_vio": None,
        "dead_experts": None,
        "lost_tokens_pct": None,
        "peak_mib": ends.get("peak_mib"),
        "val_bpb": evaluated.get("val_bpb"),
        "core_metric": evaluated.get("core_metric"),
        "flags": flags,
    }
    return StepRow(**values)


def _evaluations(lines: list[EvalLine], steps: list[int]) -> tuple[dict[int, dict[str, float]], Counter[str]]:
    found: dict[int, dict[str, float]] = {}
    lost: Counter[str] = Counter()
    for line in lines:
        place, column = bisect_left(steps, line.step), _METRICS[line.metric]
        if place == 0:
            lost["evaluation before the first step"] += 1
            continue
        known = found.setdefault(steps[place - 1], {})
        if known.setdefault(column, line.value) != line.value:
            lost["second evaluation between two printed steps"] += 1
    return found, lost
