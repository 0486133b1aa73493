"""The torchrun command of a leg: what a user without this tool would type to train it.

It keeps one checkpoint, after the last step, where our own trials keep several and resume from them.
"""

from nanochat.config import ConfigError, with_overrides
from nanochat.flags import LAUNCHER_FLAGS, RunOptions, to_argv
from nanochat.sizes import num_steps
from sweeps.spec.errors import SweepError
from sweeps.spec.legs import Leg


def torchrun_argv(leg: Leg, num_workers: int) -> list[str]:
    """The words of the command; the lone `--` ends torchrun's own flags."""
    saves = {"run.checkpoint_every": num_steps(leg.config), "run.final_checkpoint": True}
    try:
        flags = to_argv(with_overrides(leg.config, saves), RunOptions(model_tag=leg.name))
    except ConfigError as error:
        raise SweepError(f"leg {leg.name} has no torchrun command: {error}") from None
    return ["torchrun", *LAUNCHER_FLAGS, f"--nproc_per_node={num_workers}", "-m", "scripts.base_train", "--", *flags]
