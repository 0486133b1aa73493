"""The training loop: a function of a config and four hooks.

torchrun's shell and Ray Train's worker call the same `train`; where checkpoints go, who hears of a step and who
may ask to stop is theirs, in the hooks. Nothing here reads flags, environment or globals.
"""

import gc
import math
import sys
import time
from dataclasses import replace

import torch

from nanochat.checkpoints.saving import Saver, is_over
from nanochat.config import TrainConfig
from nanochat.loop import logs
from nanochat.loop.evaluations import evaluate_if_due, sample_if_due
from nanochat.loop.setup import Progress, Run, core_folder, prepare
from nanochat.loop.step_stats import step_stats
from nanochat.loop.stepping import Stepper
from nanochat.metering import meter as clock
from nanochat.metering.rank_report import RankReport
from nanochat.metering.step_flags import Flags
from nanochat.metering.telemetry import GpuSampler
from nanochat.model import compiling
from nanochat.model.fp8 import conversion_line
from nanochat.stats import Hooks, StepStats, TrainResult

MAX_SKIPPED_IN_A_ROW = 10


class DivergedError(RuntimeError):
    """Too many steps in a row had a gradient that is not finite."""


def train(config: TrainConfig, hooks: Hooks) -> TrainResult:
    """Trains `config` from its latest good checkpoint, or from the start, to its end or until asked to stop.

    Collective: every rank of the default process group calls it with equal configs; without a group it trains alone.
    Raises ConfigError (cannot run here), CompileError (cannot be compiled, and may not run uncompiled), CheckpointError
    (cannot write, or a state of another run), DivergedError.
    """
    run = prepare(config, hooks)
    try:
        with (
            Saver(hooks, run.state, run.ranks, beside_training=config.run.checkpoint_every is not None) as saver,
            GpuSampler.of(run.device) as gpu,
        ):
            return _train(run, hooks, saver, gpu)
    finally:
        run.feed.close()


def _train(run: Run, hooks: Hooks, saver: Saver, gpu: GpuSampler) -> TrainResult:
    """Steps until the end or a request to stop; the body of the loop lists what happens after each."""
    progress, first_step = run.progress, run.progress.steps_done
    _tell_start(run, hooks)
    take_step, flags = Stepper(run), Flags(first_step)
    last_saved = first_step or None
    stopped = False
    while progress.steps_done < run.num_steps and not stopped:
        step = progress.steps_done
        measured = take_step(step, saver.take_blocked_ms())
        mine = RankReport(hooks.should_stop(), saver.status, run.feed.served, gpu.take(), measured)
        reports = mine.of_all(run.ranks)
        stopped = any(report.wants_stop for report in reports)
        advance(progress, step, [report.step for report in reports])
        hooks.step_done()
        evaluated = evaluate_if_due(run)
        if run.ranks.is_first:
            fallback = take_step.fallback
            stats = step_stats(run, step, reports, evaluated, flags, fell_back=fallback is not None)
            flags.told(_tell_step(run, hooks, stats), stats.dt_ms)
            if step == first_step:
                hooks.on_start(replace(run.start_facts(), first_step=first_step, compile_fallback=fallback))
        flags.after(evaluated=evaluated.anything, sampled=sample_if_due(run))
        if progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            saver.settle()  # the checkpoint that the error names is complete, or this raises
            raise DivergedError(_diverged(progress.steps_done, last_saved))
        if is_over([report.save_status for report in reports]):
            saver.settle()
        if last_saved != progress.steps_done and _is_save_due(run, stopped):
            saver.save(last=stopped or _is_complete(run))
            last_saved = progress.steps_done
        if saver.is_under_way:
            flags.saving()
        if step == first_step:
            gc.collect()
            gc.freeze()
    gc.unfreeze()
    saver.settle()
    return _result(run)


def _is_complete(run: Run) -> bool:
    return run.progress.steps_done >= run.num_steps


def _is_save_due(run: Run, stopped: bool) -> bool:
    """True if a checkpoint is written after this step: every so many steps, at a stop and, if asked for, at the end."""
    settings, progress = run.config.run, run.progress
    if _is_complete(run):
        return settings.final_checkpoint
    if stopped:
        return True
    if progress.skipped_in_a_row > 0:  # else the last good checkpoint would soon be pruned
        return False
    return settings.checkpoint_every is not None and progress.steps_done % settings.checkpoint_every == 0


def _tell_step(run: Run, hooks: Hooks, stats: StepStats) -> float:
    """Rank 0: log lines for people, the record for the caller. Returns how long that took, in ms."""
    start_s = time.perf_counter()
    for line in logs.lines_of_step(stats, run.progress.num_skipped, run.config.run.log_every):
        print(line, flush=True)
    hooks.on_step(stats)
    return (time.perf_counter() - start_s) * 1e3


def _result(run: Run) -> TrainResult:
    """Collective. How the run ended; rank 0 prints the end of a complete one."""
    progress = run.progress
    result = TrainResult(
        last_step=progress.steps_done - 1,
        completed=_is_complete(run),
        peak_mib=max(f[0] for f in run.ranks.all_gather_floats([run.device.peak_mib()])),
        total_time_min=progress.train_time_s / 60,
        min_val_bpb=progress.min_val_bpb,
        num_skipped=progress.num_skipped,
    )
    if run.ranks.is_first and result.completed:
        print("\n".join(logs.end_lines(result)), flush=True)
    return result


def _diverged(num_done: int, last_saved: int | None) -> str:
    """What to say after too many skipped steps in a row, before which a checkpoint was written or not."""
    found = f"steps {num_done - MAX_SKIPPED_IN_A_ROW} to {num_done - 1} all had a gradient that is not finite"
    good = f"the last good checkpoint is that of step {last_saved}" if last_saved else "there is no checkpoint"
    return f"{found}; {good}; lower the learning rates"


def advance(progress: Progress, step: int, every_rank: list[clock.RankStep]) -> None:
    """The loop's own numbers after a step, equal on every rank."""
    progress.steps_done = step + 1
    if math.isfinite(every_rank[0].last_loss):  # one bad step must not hide all later ones
        progress.loss_ema = clock.EMA_DECAY * progress.loss_ema + (1 - clock.EMA_DECAY) * every_rank[0].last_loss
        progress.ema_weight = clock.EMA_DECAY * progress.ema_weight + (1 - clock.EMA_DECAY)
    is_skipped = not every_rank[0].active
    progress.num_skipped += is_skipped
    progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if is_skipped else 0
    if step >= clock.UNTIMED_STEPS:
        progress.train_time_s += max(r.dt_ms for r in every_rank) / 1e3


def _tell_start(run: Run, hooks: Hooks) -> None:
    """Rank 0: what runs here, for people and for the caller."""
    if not run.ranks.is_first:
        return
    lines = [
        *logs.provenance_lines(sys.argv, run.config.run.name, run.config.run.seed, torch.__version__),
        *logs.model_lines(run.config),
        *logs.size_lines(run.config, run.start_facts()),
        *logs.start_lines(run.start_facts()),
        compiling.compile_line(run.config.compile.mode),
    ]
    if run.config.precision.uses_fp8:
        lines.append(conversion_line(run.model, run.config.precision.recipe))
    if run.config.eval.core_every is not None and run.core_tasks is None:
        lines.append(f"CORE metric: not measured, there is no bundle at {core_folder(run.config.eval)}")
    print("\n".join(lines), flush=True)
    hooks.on_start(run.start_facts())
