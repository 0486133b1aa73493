"""Verdicts as rows of a table and as JSON."""

from typing import Any

from sweeps.results.decisions.conclusion import CPU_WARNING, Conclusion, gate_bound, gate_value, ran_on_cpu
from sweeps.results.decisions.judgement import GateVerdict, Judgement, LegVerdict
from sweeps.results.decisions.looks import NOT_RUN
from sweeps.results.decisions.phrase import interval_of, text_of
from sweeps.results.decisions.time_to_loss import TimeToLoss, time_to_loss
from sweeps.results.measures.snapshot import Snapshot
from sweeps.spec.words import fixed, percent_change

GATE_HEADERS = ("gate", "against", "asked", "measured", "blocks", "verdict")
LEG_HEADERS = ("leg", "tok/s over baseline", "blocks", "verdict")


def gate_rows(judgement: Judgement) -> list[tuple[str, ...]]:
    """Headers, then a row per gate."""
    return [GATE_HEADERS, *(_gate_row(verdict) for verdict in judgement.gates)]


def leg_rows(judgement: Judgement) -> list[tuple[str, ...]]:
    """Headers, then a row per leg that runs, but the baseline."""
    return [LEG_HEADERS, *(_leg_row(verdict) for verdict in judgement.legs if verdict.finding is not NOT_RUN)]


def gate_json(snapshot: Snapshot, judgement: Judgement, conclusion: Conclusion) -> dict[str, Any]:
    """Everything that `gate` knows; null for what was not measured."""
    return {
        "schema": "nanochat-sweep/gate/1",
        "experiment": snapshot.manifest.id,
        "outcome": judgement.outcome,
        "exit_code": judgement.exit_code,
        "conclusion": {"word": conclusion.word, "sentence": text_of(conclusion.sentence)},
        "notes": [text_of(phrase) for phrase in conclusion.also],
        "warnings": [CPU_WARNING] if ran_on_cpu(snapshot) else [],
        "complete_blocks": judgement.num_complete,
        "planned_blocks": judgement.num_planned,
        "max_blocks": judgement.max_blocks,
        "floor_sd": judgement.floor_sd,
        "calibration": snapshot.calibration.experiment if snapshot.calibration is not None else None,
        "stale_calibrations": list(snapshot.stale_calibrations),
        "time_to_loss": _time_values(snapshot),
        "gates": [gate_values(verdict) for verdict in judgement.gates],
        "legs": [leg_values(verdict) for verdict in judgement.legs],
    }


def _gate_row(verdict: GateVerdict) -> tuple[str, ...]:
    return (
        verdict.metric.label,
        verdict.reference.name if verdict.reference is not None else "-",
        gate_bound(verdict),
        gate_value(verdict),
        str(verdict.num_blocks),
        verdict_text(verdict),
    )


def _leg_row(verdict: LegVerdict) -> tuple[str, ...]:
    finding = verdict.finding
    value = interval_of(finding.ratio, finding.low, finding.high)
    return (verdict.leg.name, value, str(finding.num_blocks), verdict_text(verdict))


def verdict_text(verdict: GateVerdict | LegVerdict) -> str:
    """The word, with why it is not more than that."""
    small = " (small)" if verdict.is_small else ""
    return f"{verdict.word}{small}" + (f": {verdict.reason}" if verdict.reason else "")


def gate_values(verdict: GateVerdict) -> dict[str, Any]:
    """A gate's verdict as `gate --json` and verdicts.parquet have it."""
    return {
        "metric": verdict.metric.name,
        "leg": verdict.leg.name,
        "reference": verdict.reference.name if verdict.reference is not None else None,
        "improves": verdict.gate.improves is not None,
        "at_most": verdict.gate.at_most,
        "at_least": verdict.gate.at_least,
        "verdict": verdict.word,
        "outcome": verdict.outcome,
        "value": verdict.value,
        "low": verdict.low,
        "high": verdict.high,
        "blocks": verdict.num_blocks,
        "decided_after": verdict.decided_after,
        "small": verdict.is_small,
        "reason": verdict.reason,
    }


def leg_values(verdict: LegVerdict) -> dict[str, Any]:
    """The same of a leg, in speed."""
    return {
        "leg": verdict.leg.name,
        "role": verdict.leg.role,
        "reference": verdict.reference.name,
        "metric": verdict.metric.name,
        "verdict": verdict.word,
        "ratio": verdict.finding.ratio,
        "low": verdict.finding.low,
        "high": verdict.finding.high,
        "blocks": verdict.finding.num_blocks,
        "decided_after": verdict.finding.decided_after,
        "small": verdict.is_small,
        "reason": verdict.reason,
    }


def time_line(snapshot: Snapshot) -> str | None:
    """The candidate's time to the baseline's loss in a line; None if nothing can be said of it."""
    found = _time_to_loss(snapshot)
    if found is None:
        return None
    target = f"{fixed(found.target, 4)}, {percent_change(found.tolerance)} over the baseline's final loss"
    if found.minutes is None:
        return f"time to the baseline's loss: not reached (target {target})"
    change = f", {interval_of(found.ratio, found.low, found.high)}" if found.ratio is not None else ""
    return f"time to the baseline's loss: {fixed(found.minutes, 2)} min{change} (target {target})"


def _time_to_loss(snapshot: Snapshot) -> TimeToLoss | None:
    plan = snapshot.plan
    return None if plan.candidate is None else time_to_loss(snapshot, plan.candidate.name, plan.baseline.name)


def _time_values(snapshot: Snapshot) -> dict[str, Any] | None:
    found = _time_to_loss(snapshot)
    if found is None:
        return None
    return {
        "target": found.target,
        "tolerance": found.tolerance,
        "minutes": found.minutes,
        "baseline_minutes": found.reference_minutes,
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "blocks": found.num_blocks,
    }
