"""How many ranks a leg has, always: Ray Train's fixed scaling without a process for what its autoscaler is told.

In a file of its own, as it travels to Ray's controller, which is not to import torch for it.
"""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy


class FixedWorkers(FixedScalingPolicy):
    """Says nothing ahead of time, which only Ray Data beside it would need: a placement group is a request itself."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nobody is told."""

    def _maybe_send_resource_request(self) -> None:
        """Nor again later."""
