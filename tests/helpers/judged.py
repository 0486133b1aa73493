"""Experiments with every trial done, as the decisions read them."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nanochat.config import TrainConfig, with_overrides
from nanochat.recipes import d12_moe_fp8
from sweeps.records.documents import AttemptRecord
from sweeps.records.provenance import new_manifest
from sweeps.records.rows import StepRow
from sweeps.records.steps import Steps
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec import Axis, Control, Gate, Sweep, TailWindow
from sweeps.spec.plan import Plan, Trial, make_plan
from tests.helpers.rows import row

GATES = (Gate("tok_per_sec", improves="baseline"), Gate("peak_mib", at_most=1.05), Gate("loss", at_most=1.005))
FACTS = {"world_size": 8, "device": "cuda", "device_name": "NVIDIA H100", "backends": {"experts": "grouped"}}
Change = Callable[[TrialSnapshot], TrialSnapshot]


def completed_snapshot(
    trial: Trial, rows: Sequence[StepRow], facts: Mapping[str, Any], window_steps: int
) -> TrialSnapshot:
    """A trial that one attempt on 8 workers has completed, with these rows."""
    attempt = AttemptRecord(
        number=0, host="h", pid=1, started_utc="2026-01-01T12:00:00.000000Z", num_workers=8, facts=dict(facts)
    )
    return TrialSnapshot(
        trial=trial,
        run=trial.name,
        state="completed",
        attempts=[attempt],
        result=None,
        steps=Steps.of(rows),
        spans={0: (0, len(rows) - 1)},
        log_name=f"trials/{trial.name}/log.txt",
        window_steps=window_steps,
    )


def judged_leg_name(config: TrainConfig) -> str:
    """bf16 for the control, else the capacity factor; cap0 without one."""
    factor = config.moe.capacity_factor if config.moe else None
    return "bf16" if config.precision.linears == "bf16" else f"cap{factor or 0:g}"


def judged_sweep(gates: tuple[Gate, ...] = GATES, fields: Mapping[str, Any] | None = None) -> Sweep:
    return Sweep(
        name="toy",
        question="Does a bounded queue pay?",
        base=with_overrides(d12_moe_fp8(num_steps=40), dict(fields or {})),
        num_workers=8,
        axes=[Axis("moe.capacity_factor", [None, 1.0, 1.25])],
        controls=[Control({"precision.linears": "bf16", "precision.experts": "bf16"}, name="bf16")],
        baseline={"moe.capacity_factor": None},
        candidate={"moe.capacity_factor": 1.0},
        window=TailWindow(num_steps=10),
        gates=list(gates),
        leg_name=judged_leg_name,
    )


def judged_experiment(
    effects: Mapping[str, float],
    *,
    num_blocks: int = 4,
    sd: float = 0.001,
    losses: Mapping[str, float] | None = None,
    peaks: Mapping[str, float] | None = None,
    change: Change = lambda trial: trial,
    gates: tuple[Gate, ...] = GATES,
    fields: Mapping[str, Any] | None = None,
) -> Snapshot:
    """An experiment with every trial done; `effects` are changes of dt by leg, in parts of 1, `sd` is between runs."""
    return judged_of_plan(
        make_plan(judged_sweep(gates, fields), num_blocks), effects, sd=sd, losses=losses, peaks=peaks, change=change
    )


def judged_of_plan(
    plan: Plan,
    effects: Mapping[str, float],
    *,
    sd: float = 0.001,
    losses: Mapping[str, float] | None = None,
    peaks: Mapping[str, float] | None = None,
    change: Change = lambda trial: trial,
) -> Snapshot:
    """The same for any plan of 40 steps and a window of 10."""
    chance = random.Random(1)
    trials: list[TrialSnapshot] = []
    for trial in plan.trials:
        leg = trial.leg.name
        pace_ms = 100 * (1 + effects.get(leg, 0.0)) * math.exp(chance.gauss(0, sd) + 0.003 * trial.block)
        rows = [
            row(
                step,
                trial=trial.name,
                loss=4.0 * (1 + (losses or {}).get(leg, 0.0)) + 3 * math.exp(-step) + chance.gauss(0, 0.0005),
                dt_ms=pace_ms,
                tok_per_sec=5e6 / pace_ms,
                peak_mib=900.0 * (1 + (peaks or {}).get(leg, 0.0)),
            )
            for step in range(40)
        ]
        trials.append(change(completed_snapshot(trial, rows, FACTS, window_steps=10)))
    manifest = new_manifest(plan, id="20260101_120000_toy", argv=["nanochat-sweep"], settings={})
    return Snapshot(manifest=manifest, plan=plan, state="completed", trials=trials, torn_files=())
