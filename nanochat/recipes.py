"""Recipes: functions that return a complete TrainConfig.

A recipe calls another recipe and changes a few fields, so that the difference between two is readable.
"""

from nanochat.config import (
    CompileConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    MoEConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
    get_field,
    with_overrides,
)

_TINY_EVAL_TOKENS = 4096  # the full size's 20 million would take a CPU hours


def d12_moe(num_steps: int) -> TrainConfig:
    """Depth 12, width 768, 8 experts of which 2 serve a token: 456M parameters, 286M active, in bf16."""
    return TrainConfig(
        model=ModelConfig(depth=12, aspect_ratio=64, head_dim=64, seq_len=1024),
        moe=MoEConfig(num_experts=8, top_k=2, every=1, hidden_mult=2, balance_loss_coeff=0.01),
        compile=CompileConfig(mode="static"),
        schedule=ScheduleConfig(num_steps=num_steps),
        data=DataConfig(device_batch_size=16),
        eval=EvalConfig(every=None, core_every=None, sample_every=None),
        run=RunConfig(final_checkpoint=False),
    )


def d12_moe_fp8(num_steps: int) -> TrainConfig:
    """`d12_moe` with attention, head and experts in FP8."""
    base = d12_moe(num_steps)
    return with_overrides(base, {"precision.linears": "fp8", "precision.experts": "fp8"})


def shrink_to_tiny(config: TrainConfig) -> TrainConfig:
    """The same run at a size that two CPU cores train in seconds: 2 layers of width 128, 128 tokens, 512 a step.

    A validation takes at most 4,096 tokens. Every choice that a sweep may vary (experts, capacity, precision, compile
    mode) is kept. Learning rates follow the square root of the batch, so they are raised by that of 2^19 / 512: the
    rates in effect are those of the full size, and 40 steps suffice to see the loss fall. It runs on the CPU also where
    there are GPUs.
    """
    raised = 32.0
    rates = ("optim.embedding_lr", "optim.unembedding_lr", "optim.matrix_lr", "optim.scalar_lr")
    return with_overrides(
        config,
        {
            "model.depth": 2,
            "model.aspect_ratio": 64,
            "model.head_dim": 32,
            "model.seq_len": 128,
            "data.device_batch_size": 2,
            "data.total_batch_tokens": 512,
            "schedule.num_steps": 40,
            "eval.num_tokens": min(config.eval.num_tokens, _TINY_EVAL_TOKENS),
            "run.device": "cpu",
            **{path: raised * get_field(config, path) for path in rates},
        },
    )
