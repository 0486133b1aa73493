"""From what each rank measured to the one record of a step."""

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence

from nanochat import sizes
from nanochat.data.lanes import digest_text, served_by_all
from nanochat.loop.evaluations import Evaluated
from nanochat.loop.parameters import peak_matrix_lr
from nanochat.loop.setup import Run
from nanochat.metering import meter as clock
from nanochat.metering.rank_report import RankReport
from nanochat.metering.step_flags import Flags
from nanochat.metering.telemetry import combine
from nanochat.optimizer import schedule
from nanochat.stats import StepStats

_NO_ROUTER = dict.fromkeys(field.name for field in dataclasses.fields(clock.RouterSummary))


def step_stats(
    run: Run, step: int, reports: Sequence[RankReport], evaluated: Evaluated, flags: Flags, *, fell_back: bool
) -> StepStats:
    """The step's record: its time is the slowest rank's, its losses are means over ranks.

    `fell_back`: the run should be compiled and is not.
    """
    every_rank, gpu = [report.step for report in reports], combine(report.gpu for report in reports)
    compiled_graphs = int(max(r.compiled_graphs for r in every_rank))
    dts = [r.dt_ms for r in every_rank]
    dt_ms = max(dts)
    tok_per_sec = sizes.batch_tokens(run.config) / dt_ms * 1e3
    router = clock.summarize_router(run.config, every_rank)
    mfu = useful = None
    if run.device.peak_flops is not None:
        peak = run.device.peak_flops * run.ranks.world_size
        mfu, useful = clock.mfu_pct(run.config, tok_per_sec, peak, router.dropped_pct if router else 0.0)
    lr_mult = schedule.lr_multiplier(step, run.num_steps, run.config.schedule)
    is_finite = math.isfinite(every_rank[0].last_loss)
    return StepStats(
        step=step,
        num_steps=run.num_steps,
        loss=statistics.fmean(r.loss for r in every_rank)
        if all(math.isfinite(r.loss) for r in every_rank)
        else math.nan,
        loss_ema=run.progress.loss_ema / run.progress.ema_weight if is_finite else math.nan,
        bal=statistics.fmean(r.balance for r in every_rank) if router else None,
        lr_mult=lr_mult,
        lr=peak_matrix_lr(run.config.optim, sizes.batch_tokens(run.config)) * lr_mult,
        grad_norm=_root(sum(r.grad_square for r in every_rank)),
        ended_unix_s=time.time(),
        dt_ms=dt_ms,
        dt_median_ms=statistics.median(dts),
        slowest_rank=dts.index(dt_ms),
        **clock.phase_columns(every_rank),
        injected_ms=max(r.injected_ms for r in every_rank) if run.config.run.inject_pct > 0 else None,
        tok_per_sec=tok_per_sec,
        bf16_mfu_pct=mfu,
        useful_mfu_pct=useful,
        compiled_graphs=compiled_graphs,
        epoch=run.feed.epoch,
        served_digest=digest_text(served_by_all(report.served for report in reports)),
        train_time_s=run.progress.train_time_s,
        **(vars(router) if router else _NO_ROUTER),
        peak_mib=max(r.peak_mib for r in every_rank),
        **vars(gpu),
        **evaluated._asdict(),
        flags=flags.of_step(
            step,
            compiled_graphs,
            skipped=not every_rank[0].active,
            fell_back=fell_back,
            throttle_bits=gpu.gpu_throttle_bits,
        ),
    )


def _root(square: float) -> float:
    """The norm; NaN where a gradient was not finite."""
    return math.sqrt(square) if math.isfinite(square) else math.nan
