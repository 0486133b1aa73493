"""Does a bounded expert queue pay for FP8 experts, and under which compile mode?

Five legs and one control on 8 GPUs, 280 steps each. The control is the whole model in bf16: FP8 that is faster only
than its own slow baseline has not won.
"""

from nanochat.recipes import d12_moe_fp8
from sweeps.spec import Axis, Control, Gate, Sweep, TailWindow
from sweeps.spec.names import moe_leg_name

SWEEP = Sweep(
    name="capacity",
    base=d12_moe_fp8(num_steps=280),
    num_workers=8,
    checkpoint_every=70,  # at 70, 140 and 210: 20 steps for a save to end before the tail window
    axes=[
        Axis("compile.mode", ["static", "dynamic", "none"]),
        Axis("moe.capacity_factor", [None, 1.0, 1.25]),  # None: exact routing, no token is dropped
    ],
    only=[("static", None), ("static", 1.0), ("static", 1.25), ("dynamic", 1.0), ("none", 1.0)],
    controls=[Control({"precision.linears": "bf16", "precision.experts": "bf16", "moe.capacity_factor": None})],
    baseline={"compile.mode": "static", "moe.capacity_factor": None},
    candidate={"compile.mode": "static", "moe.capacity_factor": 1.0},
    window=TailWindow(num_steps=50),
    gates=[
        Gate("tok_per_sec", improves="baseline"),
        Gate("peak_mib", at_most=1.05, versus="baseline"),
        Gate("loss", at_most=1.005, versus="baseline"),
    ],
    leg_name=moe_leg_name,
)
