"""A run's checkpoints are good for the same settings, also after the trainer has learned new ones."""

import dataclasses
import math
from pathlib import Path

import pytest

from nanochat.checkpoints.format import CheckpointError
from nanochat.config import MoEConfig, OptimConfig, TrainConfig, with_overrides
from nanochat.loop.setup import Progress, digest_of_sections, may_continue, state_digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterOptimConfig(OptimConfig):
    """The section in a version that has one field more, off by default."""

    a_later_field: float = 0.0

    def __post_init__(self) -> None:
        """Checks nothing: today's version does not know the field."""


def _later(config: TrainConfig, **fields: float) -> TrainConfig:
    """The config as that version has it; a config of today's version rejects the field."""
    changed = dataclasses.replace(config)
    object.__setattr__(changed, "optim", LaterOptimConfig(**vars(config.optim), **fields))
    return changed


def test_a_new_field_at_its_default_keeps_older_checkpoints_good_and_one_that_is_set_does_not():
    config = with_overrides(TrainConfig(), {"optim.matrix_lr": 0.03})
    assert state_digest(_later(config)) == state_digest(config)
    assert state_digest(_later(config, a_later_field=0.5)) != state_digest(config)


def test_every_field_that_shapes_the_state_is_in_the_digest_and_no_other():
    config = TrainConfig(moe=MoEConfig())
    changes = {
        "model.depth": 4,
        "moe.capacity_factor": 1.0,
        "precision.linears": "fp8",
        "optim.matrix_lr": 0.03,
        "schedule.num_steps": 7,
        "data.device_batch_size": 2,
        "run.seed": 7,
    }
    changed = [state_digest(with_overrides(config, {path: value})) for path, value in changes.items()]
    assert len({state_digest(config), state_digest(TrainConfig()), *changed}) == len(changes) + 2
    free = {
        "data.source": "/elsewhere",
        "run.name": "other",
        "run.log_every": 5,
        "eval.every": None,
        "compile.mode": "none",
    }
    assert {state_digest(with_overrides(config, {path: value})) for path, value in free.items()} == {
        state_digest(config)
    }


def test_a_checkpoint_of_a_version_whose_digest_knew_where_the_text_was_is_continued():
    there = with_overrides(TrainConfig(), {"data.source": "shards"})
    stored = digest_of_sections(there, left_out=set())
    assert stored != state_digest(there)
    assert may_continue(stored, there)
    assert may_continue(state_digest(there), with_overrides(there, {"data.source": "/abs/shards"}))
    assert not may_continue(stored, with_overrides(there, {"optim.matrix_lr": 0.5}))


def test_the_loops_numbers_come_back_from_a_checkpoint_and_what_is_none_is_refused():
    progress = Progress()
    progress.restore(
        {"steps_done": 3, "loss_ema": math.nan, "min_val_bpb": 1.5, "a_later_one": []}, Path("step_000003")
    )
    assert (progress.steps_done, progress.min_val_bpb, progress.num_skipped) == (3, 1.5, 0)
    assert not hasattr(progress, "a_later_one")
    wrong = {
        "steps_done": (-1, "3", 3.0, True, None, 10**400, [], 2**31),
        "loss_ema": ("x", None, True, [1.0]),
        "min_val_bpb": ("x", {}),
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(CheckpointError, match=f"step_000003 is damaged: the trainer's {name} is"):
                Progress().restore({name: value}, Path("step_000003"))
