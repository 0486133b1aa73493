"""How big a run is, from its config alone: parameters, FLOPs, the batch, the steps.

One set of formulas, without torch, that the plan, the launcher and the trainer all use, so that a size that does not
divide is rejected before anything starts.
"""

import math
from dataclasses import dataclass, replace

from nanochat.config import MAX_STEPS, ConfigError, TrainConfig

REFERENCE_BATCH_TOKENS = 2**19  # where the default learning rates were tuned
REFERENCE_DEPTH = 12
BATCH_EXPONENT = 0.383
MAX_CPU_STEP_FLOPS = 1e12  # takes two cores some ten seconds; a full-size recipe needs hundreds of times as much
MAX_LANES = 2**20
GATE_INPUTS = 32  # leading features of the residual stream that gate a value embedding


@dataclass(frozen=True, kw_only=True)
class ParamCounts:
    """Numbers of parameters by role; `moe_inactive` are those of the experts that a token does not visit."""

    wte: int
    value_embeds: int
    lm_head: int
    transformer_matrices: int
    scalars: int
    moe_inactive: int

    @property
    def total(self) -> int:
        """All parameters of the model."""
        return self.wte + self.value_embeds + self.lm_head + self.transformer_matrices + self.scalars

    @property
    def active_total(self) -> int:
        """The parameters that take part in one token."""
        return self.total - self.moe_inactive

    @property
    def scaling(self) -> int:
        """The parameters that batch size and training length scale with: active matrices and the head."""
        return self.transformer_matrices + self.lm_head - self.moe_inactive


def is_moe_layer(config: TrainConfig, layer: int) -> bool:
    """Whether a layer has experts in place of the MLP."""
    return config.moe is not None and layer % config.moe.every == 0


def count_params(config: TrainConfig) -> ParamCounts:
    """The model's parameters by role."""
    model, moe = config.model, config.moe
    width, embedding = model.width, model.width * model.padded_vocab_size
    matrices = inactive = value_embeds = 0
    for layer in range(model.depth):
        matrices += 4 * width * width
        if model.has_value_embedding(layer):
            value_embeds += embedding
            matrices += GATE_INPUTS * model.num_heads
        if moe is not None and is_moe_layer(config, layer):
            expert = 2 * moe.hidden_mult * width * width
            matrices += moe.num_experts * (width + expert)
            inactive += (moe.num_experts - moe.top_k) * expert
        else:
            matrices += 8 * width * width
    return ParamCounts(
        wte=embedding,
        value_embeds=value_embeds,
        lm_head=embedding,
        transformer_matrices=matrices,
        scalars=2 * model.depth,
        moe_inactive=inactive,
    )


def checkpoint_bytes(config: TrainConfig) -> int:
    """About how large a checkpoint is: fp32 masters, one more number per matrix element, two per other parameter."""
    count = count_params(config)
    return 12 * count.total - 4 * count.transformer_matrices


def flops_per_token(config: TrainConfig) -> float:
    """Floating-point operations of one token's forward and backward: matrices, and attention within the windows."""
    model = config.model
    windows = sum(min(model.window_tokens(layer), model.seq_len) for layer in range(model.depth))
    return float(6 * count_params(config).scaling + 12 * model.width * windows)


def scaling_ratio(config: TrainConfig) -> float:
    """How much more data this model wants than the same one at depth 12 would."""
    reference = replace(config, model=replace(config.model, depth=REFERENCE_DEPTH))
    return count_params(config).scaling / count_params(reference).scaling


def auto_batch_tokens(config: TrainConfig) -> int:
    """Tokens per optimizer step that suit the model's size: a power of two."""
    return 2 ** round(math.log2(REFERENCE_BATCH_TOKENS * scaling_ratio(config) ** BATCH_EXPONENT))


def batch_tokens(config: TrainConfig) -> int:
    """Tokens per optimizer step: the config's, or the automatic batch."""
    fixed = config.data.total_batch_tokens
    return fixed if fixed is not None else auto_batch_tokens(config)


def num_lanes(config: TrainConfig) -> int:
    """Micro-batches per optimizer step over all ranks. ConfigError where the batch is no whole number of them."""
    total, micro = batch_tokens(config), config.micro_batch_tokens
    if total % micro:
        raise ConfigError(
            f"the automatic batch of {total:,} tokens is no multiple of one micro-batch of {micro:,} tokens "
            f"(device_batch_size {config.data.device_batch_size} x seq_len {config.model.seq_len}); "
            f"set data.total_batch_tokens or another data.device_batch_size"
        )
    if total // micro > MAX_LANES:
        raise ConfigError(
            f"a step of {total:,} tokens has {total // micro:,} micro-batches of {micro:,} tokens, and every one keeps "
            f"its own place in the text; at most {MAX_LANES:,} can be: lower data.total_batch_tokens, or raise "
            f"data.device_batch_size or model.seq_len"
        )
    return total // micro


def check_world_size(config: TrainConfig, world_size: int) -> None:
    """Raises ConfigError unless the micro-batches of a step divide over the ranks."""
    lanes = num_lanes(config)
    if lanes % world_size:
        fitting = ", ".join(str(n) for n in range(1, lanes + 1) if lanes % n == 0)
        raise ConfigError(
            f"a step of {batch_tokens(config):,} tokens has {lanes} micro-batches of {config.micro_batch_tokens:,} "
            f"tokens, which do not divide over {world_size} workers; use {fitting} workers, or set "
            f"data.device_batch_size or data.total_batch_tokens"
        )


def check_width(config: TrainConfig, *, in_bf16: bool, has_fp8_units: bool) -> None:
    """Raises ConfigError for a width that the kernels' operands cannot have: rows start at multiples of 16 bytes."""
    if config.precision.uses_fp8 and has_fp8_units:
        unit, what = 16, "products in FP8 need"
    elif config.moe is not None and in_bf16:
        unit, what = 8, "experts in bf16 need"
    else:
        return
    if config.model.width % unit:
        raise ConfigError(
            f"the model's width is {config.model.width}, {what} a multiple of {unit}; change model.aspect_ratio or "
            f"model.head_dim ({config.model.head_dim}, of which the width is a multiple)"
        )


def cpu_objection(config: TrainConfig, num_ranks: int, num_free_bytes: int | None) -> str | None:
    """Why the CPU of a machine without GPUs cannot train this on `num_ranks` processes; None if it can.

    A config that asks for the CPU by name can take as long as it likes, but not more memory than is free (None:
    unknown).
    """
    step_flops = flops_per_token(config) * batch_tokens(config)
    if config.run.device is None and step_flops > MAX_CPU_STEP_FLOPS:
        return f"a step of {step_flops:.1e} floating-point operations is too much for a CPU, and there is no GPU"
    num_needed = least_cpu_bytes(config, num_ranks)
    if num_free_bytes is not None and num_needed > num_free_bytes:
        ranks = "1 rank needs" if num_ranks == 1 else f"{num_ranks} ranks need"
        return (
            f"{ranks} at least {num_needed / 2**30:,.1f} GiB of memory for this model and batch, and "
            f"{num_free_bytes / 2**30:,.1f} GiB are free"
        )
    return None


def least_cpu_bytes(config: TrainConfig, num_ranks: int) -> int:
    """What training on one machine takes at the very least: bf16 weights and gradients and the logits with theirs on
    each rank, and the optimizer's state once."""
    logits = config.micro_batch_tokens * config.model.padded_vocab_size
    return num_ranks * (4 * count_params(config).total + 8 * logits) + checkpoint_bytes(config)


def num_steps(config: TrainConfig) -> int:
    """Optimizer steps of the run: given, or from FLOPs, or from tokens per scaling parameter; the first that is set.

    ConfigError where there would be more than can be counted.
    """
    schedule = config.schedule
    if schedule.num_steps is not None:
        return schedule.num_steps
    if schedule.target_flops is not None:
        what, steps = "target_flops", schedule.target_flops / (flops_per_token(config) * batch_tokens(config))
        return max(1, round(_countable(steps, what)))
    ratio = schedule.target_param_data_ratio
    assert ratio is not None, "ScheduleConfig holds at least one of the three"
    num_tokens = ratio * count_params(config).scaling
    _countable(num_tokens / batch_tokens(config), "target_param_data_ratio")
    return max(1, int(num_tokens) // batch_tokens(config))


def _countable(steps: float, field: str) -> float:
    if steps > MAX_STEPS:
        raise ConfigError(f"schedule.{field} means {steps:.3g} steps; at most {MAX_STEPS:,} can be counted")
    return steps
