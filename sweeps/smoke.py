"""Does the whole path work on this machine: trials, rows, checkpoints, tables and a report?

Two tiny legs without compilation, on two CPU processes, in less than a minute. The numbers mean nothing.
"""

from nanochat.config import with_overrides
from nanochat.recipes import d12_moe, shrink_to_tiny
from sweeps.spec import Axis, Sweep, TailWindow

SMALLER = {"data.device_batch_size": 1, "data.total_batch_tokens": 256, "eval.num_tokens": 1024}

SWEEP = Sweep(
    name="smoke",
    base=with_overrides(shrink_to_tiny(d12_moe(num_steps=40)), SMALLER),
    num_workers=2,
    checkpoint_every=20,  # once: its write is over well before the tail window
    axes=[Axis("compile.mode", ["none"]), Axis("moe.capacity_factor", [None, 1.0])],
    baseline={"moe.capacity_factor": None},
    candidate={"moe.capacity_factor": 1.0},
    window=TailWindow(num_steps=10),
    leg_name=lambda config: "exact" if config.moe and config.moe.capacity_factor is None else "capped",
)
