"""What a leg's start waits for: no import of torch but the ranks', no process but the controller and the ranks' own."""

import subprocess
import sys

import ray.train
from ray.train.torch import TorchTrainer

from sweeps.engine.ranks.fixed_workers import FixedWorkers
from sweeps.engine.ranks.lean_trainer import LeanTrainer
from sweeps.engine.ranks.process_group import ProcessGroup

AS_THE_CONTROLLER = """
import pickle, sys
pickle.loads(bytes.fromhex(sys.argv[1]))
sys.exit("torch" in sys.modules)
"""
SCALE = ray.train.ScalingConfig(num_workers=2)


def never(values: dict[str, object]) -> None:
    raise AssertionError("no rank is started")


def names(trainer: TorchTrainer) -> list[str]:
    return [type(each).__name__ for each in trainer._create_default_callbacks()]


def run_with_pickled(value: object) -> int:
    pickled = ray.cloudpickle.dumps(value).hex()
    return subprocess.run([sys.executable, "-c", AS_THE_CONTROLLER, pickled], timeout=120).returncode


def test_what_the_controller_is_given_needs_no_torch() -> None:
    lean = LeanTrainer(never, ProcessGroup("gloo"), scaling_config=SCALE)
    assert run_with_pickled((lean._create_default_callbacks(), FixedWorkers(SCALE))) == 0
    assert run_with_pickled(TorchTrainer(never, scaling_config=SCALE)._create_default_callbacks()) == 1


def test_no_process_is_started_for_datasets_and_none_to_watch_over_placement_groups() -> None:
    left_out = ["DatasetsCallback", "PlacementGroupCleanerCallback"]
    lean = names(LeanTrainer(never, ProcessGroup("gloo"), scaling_config=SCALE))
    assert [name for name in names(TorchTrainer(never, scaling_config=SCALE)) if name not in lean] == left_out[::-1]
