"""Which checkpoints a trial has, over all its attempts, which of them can go, and what those that stay take.

Every attempt is one Ray Train run with its own folder: `train/a000/step_000070/`, `train/a001/...`. So a stale
attempt (orphans of a killed launch) can never overwrite or prune what a newer one relies on, no snapshot of Ray's has
to be whole for a restart, and a checkpoint counts once its files are there, whether or not Ray had noticed it. Inside
its folder Ray keeps the two newest; of older attempts two are kept here, not counting those that a kill left half
written. What stays of a completed trial the launch chose (`--keep-checkpoints`): nothing reads it again.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from nanochat.config import TrainConfig
from nanochat.sizes import checkpoint_bytes
from nanochat.stats import CHECKPOINT_INDEX
from sweeps.records.store import Store
from sweeps.spec.plan import Plan

Keep = Literal["none", "last", "all"]  # of a completed trial; all: those that training kept
KEEP_CHOICES: tuple[Keep, ...] = get_args(Keep)
KEEP_SETTING = "keep_checkpoints"
KEEP_CHECKPOINTS = 2
_ATTEMPT = re.compile(r"a([0-9]{3,9})")
_STEP = re.compile(r"step_([0-9]{6,18})")


@dataclass(frozen=True, order=True)
class StoredCheckpoint:
    """A checkpoint's folder, complete or not; ordered by how far training was, then by attempt."""

    step: int  # steps done, so the next step's index
    attempt: int
    is_complete: bool = field(default=True, compare=False)  # its index is there; whether it is sound, a reader sees

    @property
    def name(self) -> str:
        """The folder's path below the trial's training storage."""
        return f"{run_name(self.attempt)}/{checkpoint_name(self.step)}"


def bytes_on_disk(plan: Plan, keep: Keep) -> int:
    """About how much the checkpoints of a plan take at most: of the trials that train and of those completed before.

    One trains at a time, and of blocks side by side one in each.
    """
    configs = saving_configs(plan)
    sizes = [checkpoint_bytes(config) for config in configs]
    kept = [num_kept(config, keep) * size for config, size in zip(configs, sizes, strict=True)]
    training = [(KEEP_CHECKPOINTS + 1) * size for size in sizes]  # the newest is written before the oldest goes
    more = sorted((now - then for now, then in zip(training, kept, strict=True)), reverse=True)
    at_a_time = plan.num_blocks if plan.parallel == "auto" else plan.parallel or 1
    return sum(kept) + sum(more[: min(at_a_time, plan.num_blocks)])


def num_kept(config: TrainConfig, keep: Keep) -> int:
    """How many checkpoints stay of a completed trial; one whose config writes a checkpoint at its end keeps that."""
    if keep == "all":
        return KEEP_CHECKPOINTS
    return 1 if keep == "last" or config.run.final_checkpoint else 0


def keep_of(settings: Mapping[str, Any]) -> Keep:
    """What a launch chose. Experiments from before there was a choice keep all."""
    chosen: dict[Any, Keep] = {choice: choice for choice in KEEP_CHOICES}
    return chosen.get(str(settings.get(KEEP_SETTING)), "all")


def saving_configs(plan: Plan) -> list[TrainConfig]:
    """The configs of the trials that write any checkpoint."""
    configs = [trial.config for trial in plan.trials]
    return [config for config in configs if config.run.checkpoint_every or config.run.final_checkpoint]


def run_name(attempt: int) -> str:
    """The name of an attempt's Ray Train run."""
    return f"a{attempt:03d}"


def checkpoint_name(step: int) -> str:
    """The name of a checkpoint's folder."""
    return f"step_{step:06d}"


def checkpoint_step(name: str) -> int | None:
    """The step of a checkpoint's folder by its name; None for any other name."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match and name == checkpoint_name(int(match[1])) else None


def stored_checkpoints(train: Store) -> list[StoredCheckpoint]:
    """All checkpoint folders of a trial, newest first. Another spelling of a number names none."""
    found: list[StoredCheckpoint] = []
    for run in train.list():
        match = _ATTEMPT.fullmatch(run)
        if match is None or run != run_name(int(match[1])):
            continue
        for name in train.list(run):
            step = checkpoint_step(name)
            if step is not None:
                is_complete = CHECKPOINT_INDEX in train.list(f"{run}/{name}")
                found.append(StoredCheckpoint(step, int(match[1]), is_complete))
    return sorted(found, reverse=True)


def superseded(
    checkpoints: Sequence[StoredCheckpoint], *, attempt: int, first_step: int, keep: int
) -> list[StoredCheckpoint]:
    """What `attempt`, having started at `first_step`, makes useless in the folders of earlier attempts.

    The one it started from and the next older ones are kept, `keep` in all. Newer ones were tried and rejected; they
    are not deleted, because another version of the code can read them. Half-written ones cannot be read.
    """
    earlier = [c for c in checkpoints if c.attempt < attempt]
    usable = [c for c in earlier if c.is_complete and c.step <= first_step]
    return usable[keep:] + [c for c in earlier if not c.is_complete]
