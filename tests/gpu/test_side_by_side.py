"""Two nodes of one machine, each with one GPU of its own: blocks side by side use both, and no GPU has two legs."""

import re
import sys
from pathlib import Path

import pytest
import ray.cloudpickle
import torch

from nanochat.config import TrainConfig
from nanochat.stats import Hooks, TrainResult
from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import Event
from sweeps.spec.errors import NoCluster
from tests.helpers.nodes import leg_name, nodes, toy_experiment
from tests.helpers.toy import Fault, toy_trainer

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def two_gpus() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs 2 GPUs, torch sees {torch.cuda.device_count()}")


def context(address: str, events: list[Event]) -> LaunchContext:
    toy = toy_trainer(leg_name, {"leg1": Fault.SLOW, "leg2": Fault.SLOW})
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # pyright: ignore[reportPrivateImportUsage]

    def train(config: TrainConfig, hooks: Hooks) -> TrainResult:
        print(f"GPU {torch.cuda.get_device_properties(0).uuid}", flush=True)
        torch.ones(1, device="cuda").sum().item()
        return toy(config, hooks)

    return LaunchContext(
        on_event=events.append, refresh=lambda e: None, address=address, parallel="auto", preflight=False, train=train
    )


def test_each_block_has_a_node_and_its_gpu(tmp_path: Path) -> None:
    experiment = toy_experiment(tmp_path, num_legs=2, num_blocks=2, device="cuda")
    events: list[Event] = []
    with nodes(2, 2, gpus=("0", "1")) as cluster:
        outcome = run_experiment(experiment, context(cluster.address, events))
    assert outcome.exit_code == 0, "\n".join(map(str, events))
    used: dict[int, set[str]] = {}
    spans: dict[int, list[str]] = {}
    for trial, record in zip(experiment.plan.trials, experiment.trials(), strict=True):
        used.setdefault(trial.block, set()).update(re.findall(r"GPU (\S+)", record.log_tail()))
        attempts = record.attempts()
        assert [attempt.end for attempt in attempts] == ["completed"], "a leg killed the other block's processes"
        spans.setdefault(trial.block, []).extend([attempts[0].started_utc, attempts[0].ended_utc or ""])
    assert [len(gpus) for gpus in used.values()] == [1, 1]
    assert used[1] != used[2]
    assert max(min(span) for span in spans.values()) < min(max(span) for span in spans.values()), "side by side"


def test_nodes_that_see_the_same_gpu_are_rejected(tmp_path: Path) -> None:
    experiment = toy_experiment(tmp_path, num_legs=1, num_blocks=2, device="cuda")
    with nodes(2, 2, gpus=("0", "0")) as cluster, pytest.raises(NoCluster, match="its own CUDA_VISIBLE_DEVICES"):
        run_experiment(experiment, context(cluster.address, []))
