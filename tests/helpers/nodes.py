"""Several Ray nodes on this machine, and an experiment of toy legs to run on them."""

import contextlib
import logging
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from nanochat.config import TrainConfig, with_overrides
from nanochat.recipes import d12_moe, shrink_to_tiny
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.spec import Axis, Sweep, TailWindow
from sweeps.spec.plan import make_plan

NUM_STEPS = 40


@contextlib.contextmanager
def nodes(*num_cpus: int, gpus: Sequence[str] = ()) -> Generator[Any]:
    """A cluster with a node for each number of CPUs, the first one its head. `gpus`: the one that each node sees."""
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.ERROR)
    cluster = Cluster()
    try:
        for place, number in enumerate(num_cpus):
            more: dict[str, Any] = {"include_dashboard": False} if place == 0 else {}
            more |= {"num_gpus": 1, "env_vars": {"CUDA_VISIBLE_DEVICES": gpus[place]}} if gpus else {"num_gpus": 0}
            cluster.add_node(num_cpus=number, **more)
        yield cluster
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()


def leg_name(config: TrainConfig) -> str:
    """The leg's name is its axis value."""
    return f"leg{config.run.log_every}"


def toy_experiment(
    storage: Path | str,
    *,
    num_legs: int,
    num_blocks: int = 1,
    num_workers: int = 1,
    num_steps: int = NUM_STEPS,
    device: str = "cpu",
) -> Experiment:
    """A new experiment of toy legs with checkpoints every 10 steps."""
    fields = {"schedule.num_steps": num_steps, "run.device": device}
    base = with_overrides(shrink_to_tiny(d12_moe(num_steps=num_steps)), fields)
    sweep = Sweep(
        name="toys",
        base=base,
        num_workers=num_workers,
        checkpoint_every=10,
        axes=[Axis("run.log_every", list(range(1, 1 + num_legs)))],
        baseline={"run.log_every": 1},
        window=TailWindow(num_steps=10),
        leg_name=leg_name,
    )
    manifest = new_manifest(make_plan(sweep, num_blocks), id="toys", argv=["test"], settings={})
    return Experiment.create(str(storage), "toys", manifest)
