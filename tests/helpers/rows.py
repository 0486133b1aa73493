"""Rows and facts of a run that a test invents: plausible by default, with the values that it is about."""

import dataclasses
from typing import Any

from nanochat.stats import StartFacts, StepStats
from sweeps.records.documents import TrialResult, utc_now
from sweeps.records.rows import StepRow

NUM_STEPS = 40


def row(step: int, *, attempt: int = 0, trial: str = "static-b1", **changes: Any) -> StepRow:
    """A stored row: loss 10 - step / 10 nats, 100 ms, warm-up for 20 steps."""
    plausible = StepRow(
        step=step,
        num_steps=NUM_STEPS,
        loss=10.0 - step * 0.1,
        loss_ema=10.0 - step * 0.1,
        bal=4.0,
        lr_mult=1.0,
        dt_ms=100.0,
        dt_median_ms=99.0,
        slowest_rank=1,
        tok_per_sec=5120.0,
        bf16_mfu_pct=5.0,
        useful_mfu_pct=5.0,
        epoch=1,
        train_time_s=max(0, step - 10) * 0.1,
        dropped_pct=None,
        max_vio=0.25,
        dead_experts=0,
        lost_tokens_pct=None,
        peak_mib=900.0,
        val_bpb=None,
        flags=("warmup",) if step < 20 else (),
        trial=trial,
        attempt=attempt,
    )
    return dataclasses.replace(plausible, **changes)


def step_stats(step: int, **changes: Any) -> StepStats:
    """What the trainer reports of a step."""
    return stats_of(row(step, **changes))


def stats_of(stored: StepRow) -> StepStats:
    """What the trainer reported of a stored row."""
    own = {field.name for field in dataclasses.fields(StepStats)}
    return StepStats(**{name: value for name, value in vars(stored).items() if name in own})


def start_facts(**changes: Any) -> StartFacts:
    """What the trainer reports before its first step: one rank on a CPU, 512 tokens a step."""
    plausible = StartFacts(
        world_size=1,
        device="cpu",
        device_name="toy",
        peak_bf16_flops=None,
        num_steps=NUM_STEPS,
        first_step=0,
        total_batch_tokens=512,
        grad_accum_steps=1,
        flops_per_token=1.0,
        num_params=1,
        num_active_params=1,
        backends={"attention": "toy"},
        compile_cache="none",
    )
    return dataclasses.replace(plausible, **changes)


def trial_result(trial: str, last_step: int) -> TrialResult:
    """The result of a trial that one attempt has completed; of a name `<leg>-b<block>`."""
    leg, _, block = trial.rpartition("-b")
    return TrialResult(
        trial=trial,
        leg=leg,
        block=int(block),
        status="completed",
        last_step=last_step,
        num_attempts=1,
        peak_mib=900.0,
        total_time_min=0.1,
        min_val_bpb=1.5,
        ended_utc=utc_now(),
    )
