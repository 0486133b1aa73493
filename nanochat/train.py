"""The training loop: a function of a config and four hooks.

torchrun's shell and Ray Train's worker call the same `train`; where checkpoints go, who is told about a step and who
may ask to stop is theirs, in the hooks. Nothing here reads flags, environment or globals.
"""

import gc
import math
import sys
from dataclasses import replace

import torch

from nanochat.checkpoints.saving import Saver, is_over
from nanochat.config import TrainConfig
from nanochat.evaluation import core as core_eval
from nanochat.evaluation import generate
from nanochat.evaluation import loss as loss_eval
from nanochat.loop import logs
from nanochat.loop.setup import Run, core_folder, prepare
from nanochat.loop.step_stats import step_stats
from nanochat.loop.stepping import Stepper
from nanochat.metering import meter as clock
from nanochat.metering.step_flags import Flags
from nanochat.metering.telemetry import NUM_FLOATS, GpuReading, GpuSampler, combine
from nanochat.model import compiling
from nanochat.model.fp8 import conversion_line
from nanochat.stats import Hooks, TrainResult

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
            Saver(hooks, run.parts, run.ranks, beside_training=config.run.checkpoint_every is not None) as saver,
            GpuSampler.of(run.device) as gpu,
        ):
            return _train(run, hooks, saver, gpu)
    finally:
        run.feed.close()


def _train(run: Run, hooks: Hooks, saver: Saver, gpu: GpuSampler) -> TrainResult:
    config, progress, first_step = run.config, run.progress, run.progress.steps_done
    if run.ranks.is_first:
        _print_start(run)
        hooks.on_start(run.start_facts())
    take_step = Stepper(run)
    flags = Flags(first_step)
    stopped = False
    last_saved = first_step if first_step else None
    while progress.steps_done < run.num_steps and not stopped:
        step = progress.steps_done
        rank_step = take_step(step, saver.take_blocked_ms())
        wants_stop = float(hooks.should_stop())
        mine = [wants_stop, saver.status, *gpu.take().as_floats(), *rank_step.as_floats()]
        gathered = run.ranks.all_gather_floats(mine)
        stopped = any(floats[0] > 0 for floats in gathered)
        gpus = combine(GpuReading.from_floats(floats[2 : 2 + NUM_FLOATS]) for floats in gathered)
        every_rank = [clock.RankStep.from_floats(floats[2 + NUM_FLOATS :]) for floats in gathered]
        advance(run, every_rank, step)
        hooks.step_done()
        num_done = progress.steps_done
        val_bpb = _evaluate_if_due(run, num_done)
        core = _core_if_due(run, num_done)
        if run.ranks.is_first:
            why = flags.of_step(
                step,
                int(max(r.compiled_graphs for r in every_rank)),
                skipped=not every_rank[0].active,
                fell_back=take_step.fallback is not None,
                throttle_bits=gpus.gpu_throttle_bits,
            )
            stats = step_stats(run, every_rank, step, val_bpb, core, why, gpus)
            if step % config.run.log_every == 0 or num_done == run.num_steps:
                print(logs.step_line(stats), flush=True)
            if "skipped" in why:
                print(logs.skipped_line(num_done, progress.num_skipped), flush=True)
            if val_bpb is not None:
                print(logs.validation_line(num_done, val_bpb), flush=True)
            if core is not None:
                print(logs.core_line(num_done, core), flush=True)
            hooks.on_step(stats)
            if step == first_step:
                facts = replace(run.start_facts(), first_step=first_step, compile_fallback=take_step.fallback)
                hooks.on_start(facts)
        sampled = _sample_if_due(run, num_done)
        flags.after(evaluated=(val_bpb, core) != (None, None), sampled=sampled)
        if progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            saver.settle()  # the checkpoint that the error names is complete, or this raises
            raise DivergedError(_diverged(num_done, last_saved))
        if is_over([floats[1] for floats in gathered]):
            saver.settle()
        is_last = stopped or num_done == run.num_steps
        is_due = _checkpoint_due(config, num_done, run.num_steps, stopped) and last_saved != num_done
        if is_due and (is_last or progress.skipped_in_a_row == 0):  # else the last good one would soon be pruned
            saver.save(last=is_last)
            last_saved = num_done
        if saver.is_under_way:
            flags.saving()
        if step == first_step:
            gc.collect()
            gc.freeze()
    gc.unfreeze()
    saver.settle()
    result = TrainResult(
        last_step=progress.steps_done - 1,
        completed=progress.steps_done >= run.num_steps,
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


def advance(run: Run, every_rank: list[clock.RankStep], step: int) -> None:
    """The loop's own numbers after a step, equal on every rank."""
    progress = run.progress
    progress.steps_done = step + 1
    if math.isfinite(every_rank[0].last_loss):  # one bad step must not hide all later ones
        progress.loss_ema = clock.EMA_DECAY * progress.loss_ema + (1 - clock.EMA_DECAY) * every_rank[0].last_loss
        progress.ema_weight = clock.EMA_DECAY * progress.ema_weight + (1 - clock.EMA_DECAY)
    is_skipped = not every_rank[0].active
    progress.num_skipped += is_skipped
    progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if is_skipped else 0
    if step >= clock.UNTIMED_STEPS:
        progress.train_time_s += max(r.dt_ms for r in every_rank) / 1e3


def _due(every: int | None, num_done: int, num_steps: int) -> bool:
    """Whether a measure of every so many steps is made now: then, and at the end."""
    return every is not None and (num_done % every == 0 or num_done == num_steps)


def _evaluate_if_due(run: Run, num_done: int) -> float | None:
    if run.val_lanes is None or not _due(run.config.eval.every, num_done, run.num_steps):
        return None
    tokens = run.config.eval.num_tokens
    value = loss_eval.bits_per_byte(run.model, run.val_lanes, run.token_bytes, tokens, run.ranks)
    best = run.progress.min_val_bpb
    if not math.isnan(value):
        run.progress.min_val_bpb = value if best is None else min(best, value)
    return value


def _core_if_due(run: Run, num_done: int) -> float | None:
    evaluation = run.config.eval
    if run.core_tasks is None or not _due(evaluation.core_every, num_done, run.num_steps):
        return None
    return core_eval.core_metric(run.model, run.tokenizer, run.core_tasks, evaluation.core_max_per_task, run.ranks)


def _sample_if_due(run: Run, num_done: int) -> bool:
    """Rank 0 prints samples where they are due; the others wait, so that the next step starts together."""
    if not _due(run.config.eval.sample_every, num_done, run.num_steps):
        return False
    if run.ranks.is_first:
        for text in generate.samples(run.model, run.tokenizer):
            print(logs.sample_line(num_done, text), flush=True)
    run.ranks.barrier()
    return True


def _checkpoint_due(config: TrainConfig, num_done: int, num_steps: int, stopped: bool) -> bool:
    if num_done == num_steps:
        return config.run.final_checkpoint
    every = config.run.checkpoint_every
    return stopped or (every is not None and num_done % every == 0)


def _print_start(run: Run) -> None:
    lines = [
        *logs.provenance_lines(sys.argv, run.config.run.name, run.config.run.seed, torch.__version__),
        *logs.model_lines(run.config),
        *logs.start_lines(run.start_facts()),
        compiling.compile_line(run.config.compile.mode),
    ]
    if run.config.precision.uses_fp8:
        lines.append(conversion_line(run.model, run.config.precision.recipe))
    if run.config.eval.core_every is not None and run.core_tasks is None:
        lines.append(f"CORE metric: not measured, there is no bundle at {core_folder(run.config.eval)}")
    print("\n".join(lines), flush=True)
