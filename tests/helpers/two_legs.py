"""A small experiment on one worker: the legs `one` and `two`, which differ in nothing that trains."""

from pathlib import Path
from typing import Any

from nanochat.config import TrainConfig, with_overrides
from nanochat.recipes import d12_moe, shrink_to_tiny
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.spec import Axis, Sweep, TailWindow
from sweeps.spec.plan import make_plan


def leg_name(config: TrainConfig) -> str:
    return ("one", "two")[config.run.log_every - 1]


def two_leg_experiment(storage: Path, num_steps: int = 12, **fields: Any) -> Experiment:
    """`fields` are further ones of the sweep."""
    sweep = Sweep(
        name="pair",
        base=with_overrides(shrink_to_tiny(d12_moe(num_steps=num_steps)), {"schedule.num_steps": num_steps}),
        num_workers=1,
        axes=[Axis("run.log_every", [1, 2])],
        baseline={"run.log_every": 1},
        window=TailWindow(num_steps=3),
        leg_name=leg_name,
        **fields,
    )
    manifest = new_manifest(make_plan(sweep), id="pair", argv=["test"], settings={})
    return Experiment.create(str(storage), "pair", manifest)
