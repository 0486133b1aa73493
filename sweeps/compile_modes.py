"""Under which compile mode does each precision of an MoE model train fastest?

Eight legs on 8 GPUs, 280 steps each, exact routing: everything in bf16, FP8 without the experts, FP8 with them.
"""

from nanochat.recipes import d12_moe
from sweeps.spec import Axis, Gate, Sweep, TailWindow
from sweeps.spec.names import moe_leg_name

SWEEP = Sweep(
    name="compile_modes",
    base=d12_moe(num_steps=280),
    num_workers=8,
    checkpoint_every=70,  # at 70, 140 and 210: 20 steps for a save to end before the tail window
    axes=[
        Axis("precision.linears", ["bf16", "fp8"]),  # attention and head: every layer has experts
        Axis("precision.experts", ["bf16", "fp8"]),
        Axis("compile.mode", ["static", "dynamic", "none"]),
    ],
    only=[
        *[("bf16", "bf16", mode) for mode in ("static", "dynamic", "none")],
        *[("fp8", "bf16", mode) for mode in ("static", "dynamic")],
        *[("fp8", "fp8", mode) for mode in ("static", "dynamic", "none")],
    ],
    baseline={"precision.linears": "bf16", "precision.experts": "bf16", "compile.mode": "static"},
    candidate={"precision.linears": "fp8", "precision.experts": "fp8", "compile.mode": "static"},
    window=TailWindow(num_steps=50),
    gates=[
        Gate("tok_per_sec", improves="baseline"),
        Gate("peak_mib", at_most=1.05, versus="baseline"),
        Gate("loss", at_most=1.005, versus="baseline"),
    ],
    leg_name=moe_leg_name,
)
