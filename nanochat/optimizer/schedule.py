"""How learning rate, momentum and weight decay move over a run, and how they follow the batch and the model's size.

Pure functions of numbers. A batch twice as large takes a step sqrt(2) times as long, a model twice as wide one shorter
by sqrt(2) (AdamW's parameters only; Muon's step does not depend on the width).
"""

from nanochat.config import ScheduleConfig

_REFERENCE_BATCH_TOKENS = 2**19
_REFERENCE_WIDTH = 768
_MOMENTUM_START, _MOMENTUM_END, _MOMENTUM_STEPS = 0.85, 0.95, 300


def lr_multiplier(step: int, num_steps: int, schedule: ScheduleConfig) -> float:
    """Factor on every learning rate at `step` (from 0): a line up to 1, a plateau, a line down to `final_lr_frac`."""
    warmup_steps = round(schedule.warmup_ratio * num_steps)
    warmdown_steps = round(schedule.warmdown_ratio * num_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if step <= num_steps - warmdown_steps:
        return 1.0
    progress = (num_steps - step) / warmdown_steps
    return progress + (1 - progress) * schedule.final_lr_frac


def muon_momentum(step: int) -> float:
    """Muon's momentum at `step`: from 0.85 to 0.95 over the first 300 steps."""
    done = min(step / _MOMENTUM_STEPS, 1.0)
    return (1 - done) * _MOMENTUM_START + done * _MOMENTUM_END


def weight_decay(step: int, num_steps: int, peak: float) -> float:
    """Muon's weight decay at `step`: from `peak` along a line that reaches zero at the end of the run."""
    return peak * (1 - step / num_steps)


def batch_lr_scale(total_batch_tokens: int) -> float:
    """Factor on every learning rate for a batch other than 2^19 tokens."""
    return (total_batch_tokens / _REFERENCE_BATCH_TOKENS) ** 0.5


def width_lr_scale(width: int) -> float:
    """Factor on AdamW's learning rates of embeddings and head for a width other than 768."""
    return (width / _REFERENCE_WIDTH) ** -0.5


def weight_decay_scale(total_batch_tokens: int, reference_run_tokens: float, run_tokens: float) -> float:
    """Factor on weight decay: it grows with the batch and shrinks with the length of the run.

    `run_tokens` is the tokens this model would be trained on at the configured token-to-parameter ratio,
    `reference_run_tokens` the same for the depth-12 model that the peak value was tuned for.
    """
    return batch_lr_scale(total_batch_tokens) * reference_run_tokens / run_tokens
