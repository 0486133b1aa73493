"""The lines a run prints, in the format that users' scripts already read. Pure: numbers in, text out."""

import json
import platform
import shlex
import subprocess
import sys
from typing import Any

from nanochat.config import TrainConfig
from nanochat.optimizer import schedule
from nanochat.sizes import REFERENCE_BATCH_TOKENS, count_params, flops_per_token, scaling_ratio
from nanochat.stats import StartFacts, StepStats, TrainResult


def provenance_lines(argv: list[str], name: str, seed: int, torch_version: str) -> list[str]:
    """Where this run comes from: name, command, seed, commit, torch, host."""
    return [
        f"run: {name}",
        f"argv: {shlex.join(argv)}",
        f"seed: {seed}",
        f"git commit: {git_commit() or 'unknown'}",
        f"torch version: {torch_version}",
        f"python version: {sys.version.split()[0]}",
        f"host: {platform.node()}",
    ]


def git_commit() -> str | None:
    """The commit of the checkout in the current directory, if it is one."""
    try:
        out = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() if out.returncode == 0 else None


def model_lines(config: TrainConfig) -> list[str]:
    """Vocabulary, model config, parameter counts, FLOPs per token."""
    counts = count_params(config)
    shown: dict[str, Any] = {
        "sequence_len": config.model.seq_len,
        "vocab_size": config.model.vocab_size,
        "n_layer": config.model.depth,
        "n_head": config.model.num_heads,
        "n_kv_head": config.model.num_heads,
        "n_embd": config.model.width,
        "window_pattern": config.model.window_pattern,
    }
    roles = ("wte", "value_embeds", "lm_head", "transformer_matrices", "scalars", "total", "moe_inactive")
    lines = [f"Vocab size: {config.model.vocab_size:,}", "Model config:", json.dumps(shown, indent=2)]
    lines += ["Parameter counts:", *(f"{role:<24}: {getattr(counts, role):,}" for role in roles)]
    lines += [f"{'active_total':<24}: {counts.active_total:,}"]
    return [*lines, f"Estimated FLOPs per token: {flops_per_token(config):e}"]


def start_lines(facts: StartFacts) -> list[str]:
    """Card, batch, length."""
    peak = "unknown" if facts.peak_bf16_flops is None else f"{facts.peak_bf16_flops:.2e}"
    return [
        f"GPU: {facts.device_name} | Peak FLOPS (BF16): {peak}"
        if facts.device == "cuda"
        else f"CPU: {facts.device_name}",
        f"Total batch size {facts.total_batch_tokens:,} => gradient accumulation steps: {facts.grad_accum_steps}",
        f"Number of iterations: {facts.num_steps:,}, starting at {facts.first_step:,}",
        f"Backends: {', '.join(f'{role}={kernel}' for role, kernel in facts.backends.items())}",
    ]


def size_lines(config: TrainConfig, facts: StartFacts) -> list[str]:
    """What was computed from sizes: batch, rates, length, tokens of a micro-step."""
    total, micro = facts.total_batch_tokens, config.micro_batch_tokens
    num_tokens, width, decay = total * facts.num_steps, config.model.width, config.optim.weight_decay
    rate = schedule.batch_lr_scale(total)
    decay_scale = schedule.weight_decay_scale(total, 1.0, scaling_ratio(config))
    length = config.schedule
    if length.num_steps is not None:
        source = "Using user-provided number of iterations"
    elif length.target_flops is not None:
        source = "Calculated number of iterations from target FLOPs"
    else:
        source = "Calculated number of iterations from target data:param ratio"
    is_auto = config.data.total_batch_tokens is None
    reference = f"(reference: {REFERENCE_BATCH_TOKENS:,})"
    return [
        *([f"Auto-computed optimal batch size: {total:,} tokens"] if is_auto else []),
        *([f"Scaling LRs by {rate:.4f} for batch size {total:,} {reference}"] if rate != 1 else []),
        f"Scaling weight decay from {decay:.6f} to {decay * decay_scale:.6f} for depth {config.model.depth}",
        f"Scaling the LR for the AdamW parameters by 1/sqrt({width}/768) = {schedule.width_lr_scale(width):.6f}",
        f"{source}: {facts.num_steps:,}",
        f"Total number of training tokens: {num_tokens:,}",
        f"Tokens : Scaling params ratio: {num_tokens / count_params(config).scaling:.2f}",
        f"Total training FLOPs estimate: {facts.flops_per_token * num_tokens:e}",
        f"Tokens / micro-batch / rank: {config.data.device_batch_size} x {config.model.seq_len} = {micro:,}",
        f"Tokens / micro-batch: {micro * facts.world_size:,}",
    ]


def lines_of_step(stats: StepStats, num_skipped: int, log_every: int) -> list[str]:
    """All lines after a step: the step's own where it is its turn, and what happened in it or after it."""
    num_done, lines = stats.step + 1, list[str]()
    if stats.step % log_every == 0 or num_done == stats.num_steps:
        lines.append(step_line(stats))
    if "skipped" in stats.flags:
        lines.append(skipped_line(num_done, num_skipped))
    if stats.val_bpb is not None:
        lines.append(validation_line(num_done, stats.val_bpb))
    if stats.core_metric is not None:
        lines.append(core_line(num_done, stats.core_metric))
    return lines


def step_line(stats: StepStats) -> str:
    """One step."""
    s = stats
    parts = [f"step {s.step:05d}/{s.num_steps:05d} ({100 * s.step / s.num_steps:.2f}%)", f"loss: {s.loss_ema:.6f}"]
    if s.bal is not None:
        parts.append(f"bal: {s.bal:.4f}")
    if s.z_loss is not None:
        parts.append(f"z: {s.z_loss:.4f}")
    parts += [
        f"lrm: {s.lr_mult:.2f}",
        f"dt: {s.dt_ms:.2f}ms",
        f"tok/sec: {s.tok_per_sec:,.0f}",
        f"bf16_mfu: {s.bf16_mfu_pct or 0.0:.2f}",
        f"epoch: {s.epoch}",
        f"total time: {s.train_time_s / 60:.2f}m",
    ]
    if s.step > 10:
        remaining_s = s.train_time_s / (s.step - 10) * (s.num_steps - s.step)
        parts.append(f"eta: {remaining_s / 60:.1f}m")
    return " | ".join(parts)


def skipped_line(num_steps_done: int, num_skipped: int) -> str:
    """One step that changed nothing, and how many there were so far."""
    return f"Step {num_steps_done:05d} | skipped: a gradient is not finite ({num_skipped} so far)"


def validation_line(num_steps_done: int, bits_per_byte: float) -> str:
    """One evaluation."""
    return f"Step {num_steps_done:05d} | Validation bpb: {bits_per_byte:.6f}"


def core_line(num_steps_done: int, core_metric: float) -> str:
    """One CORE metric."""
    return f"Step {num_steps_done:05d} | CORE metric: {core_metric:.4f}"


def sample_line(num_steps_done: int, text: str) -> str:
    """One prompt with what the model continued with, quoted so that it stays one line."""
    return f"Step {num_steps_done:05d} | Sample: {json.dumps(text, ensure_ascii=False)}"


def end_lines(result: TrainResult) -> list[str]:
    """What both end markers and the best evaluation say."""
    lines = [f"Peak memory usage: {result.peak_mib:.2f}MiB", f"Total training time: {result.total_time_min:.2f}m"]
    if result.min_val_bpb is not None:
        lines.append(f"Minimum validation bpb: {result.min_val_bpb:.6f}")
    if result.num_skipped:
        lines.append(f"Skipped steps: {result.num_skipped}")
    return lines
