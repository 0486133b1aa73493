"""Ray Train's TorchTrainer without what would only delay a leg."""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from sweeps.engine.ranks.fixed_workers import FixedWorkers
from sweeps.engine.ranks.process_group import ProcessGroup

# Each starts a process for every attempt: one hands out datasets, of which a leg has none, the other watches over the
# places of a controller that died, which the next attempt frees (reservations.py).
_LEFT_OUT = (DatasetsCallback, PlacementGroupCleanerCallback)


class LeanTrainer(TorchTrainer):
    """A process group that needs torch on the ranks only, and no process but the controller and the ranks' own.

    Raises what TorchTrainer raises, all of it from `fit`.
    """

    def __init__(self, train_loop_per_worker: Callable[[dict[str, Any]], None], group: ProcessGroup, **words: Any):
        super().__init__(train_loop_per_worker, torch_config=group, **words)  # pyright: ignore[reportArgumentType]

    def _create_default_callbacks(self) -> list[Any]:
        return [each for each in super()._create_default_callbacks() if not isinstance(each, _LEFT_OUT)]

    def _initialize_and_run_controller(self, **words: Any) -> Any:
        return super()._initialize_and_run_controller(**{**words, "scaling_policy": FixedWorkers(self.scaling_config)})
