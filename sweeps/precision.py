"""Which matrices of an MoE model gain from FP8, and what does each cost in loss?

Five legs on 8 GPUs, 280 steps each: bf16, FP8 in one role at a time (head, attention, experts), and in all three.
"""

from nanochat.recipes import d12_moe
from sweeps.spec import Axis, Gate, Sweep, TailWindow
from sweeps.spec.names import moe_leg_name

SWEEP = Sweep(
    name="precision",
    base=d12_moe(num_steps=280),
    num_workers=8,
    checkpoint_every=70,  # at 70, 140 and 210: 20 steps for a save to end before the tail window
    axes=[
        Axis("precision.linears", ["bf16", "fp8_head", "fp8_attention", "fp8"]),
        Axis("precision.experts", ["bf16", "fp8"]),
    ],
    only=[("bf16", "bf16"), ("fp8_head", "bf16"), ("fp8_attention", "bf16"), ("bf16", "fp8"), ("fp8", "fp8")],
    baseline={"precision.linears": "bf16", "precision.experts": "bf16"},
    candidate={"precision.linears": "fp8", "precision.experts": "fp8"},
    window=TailWindow(num_steps=50),
    gates=[
        Gate("tok_per_sec", improves="baseline"),
        Gate("peak_mib", at_most=1.05, versus="baseline"),
        Gate("loss", at_most=1.0025, versus="baseline"),
    ],
    leg_name=moe_leg_name,
)
