"""Everything that the engine knows of Ray beyond its public interface: what, why, and what would replace it.

Ray is pinned to one minor version; a move to the next one starts here. The functions import Ray, because the
launcher asks some of this before it starts Ray. The trainer's classes are defined inside a function for another reason:
they then travel to the controller by value, which imports no module of ours, and no torch, to receive them.
"""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
import os
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.spec.errors import CorruptData

if TYPE_CHECKING:
    from ray.train import ScalingConfig
    from ray.train.backend import BackendConfig
    from ray.train.torch import TorchTrainer


# Private: the methods that list the callbacks and start the controller, the callbacks' modules, the scaling policy.
# Why: each callback and the policy's coordinator start a process per attempt that a leg does not use (decision 0030).
# Until: TorchTrainer takes a list of default callbacks, or Ray Train starts these processes on demand.


def lean_trainer(
    train_loop: Callable[[dict[str, Any]], None], group: "BackendConfig", scaling: "ScalingConfig", **words: Any
) -> "TorchTrainer":
    """A TorchTrainer that starts no process but the controller and the ranks, and imports torch on the ranks only.

    Raises what TorchTrainer raises, all of it from `fit`.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class LeanTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            # One hands out datasets, of which a leg has none; the other watches over the reservation of a controller
            # that died, which the next attempt frees (reservations.py).
            left_out = (DatasetsCallback, PlacementGroupCleanerCallback)
            return [each for each in super()._create_default_callbacks() if not isinstance(each, left_out)]

        def _initialize_and_run_controller(self, **words: Any) -> Any:
            return super()._initialize_and_run_controller(**{**words, "scaling_policy": fixed_workers(scaling)})

    return LeanTrainer(train_loop, torch_config=group, scaling_config=scaling, **words)  # pyright: ignore[reportArgumentType]


def fixed_workers(scaling: "ScalingConfig") -> Any:
    """A scaling policy for one number of ranks that reports it to no autoscaler ahead of time.

    Only Ray Data next to a leg would need that: a placement group is a request itself.
    """
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

    class FixedWorkers(FixedScalingPolicy):
        def after_controller_start(self, train_run_context: Any) -> None: ...
        def _maybe_send_resource_request(self) -> None: ...

    return FixedWorkers(scaling)


# Private: the base class of Ray Train's own errors, and the field with the error below a failed health check.
# Why: `worker_failures` mixes what a training function raised with Ray's reports of a rank that is gone, and only the
# first kind is a leg's own error.
# Until: `ray.train.WorkerGroupError` says of each failure which of the two it is.


def is_from_ray(failure: Exception) -> bool:
    """True if Ray itself raised a rank's failure, rather than the training function."""
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError

    return isinstance(failure, RayError | RayTrainError)


def below_health_check(failure: Exception) -> Exception:
    """The error that a failed health check of a rank has met; the failure itself if it is another kind."""
    return getattr(failure, "health_check_failure", failure)


# Private: the name and the form of the file in which Ray Train counts checkpoints.
# Why: a checkpoint counts once all ranks have reported it, and the launcher sees only storage.
# Until: `ray.train` reads the checkpoints of a run from its storage.

_SNAPSHOT = "checkpoint_manager_snapshot.json"


def newest_counted_checkpoint(read: Callable[[str], bytes]) -> str:
    """The folder's name of the last checkpoint that all ranks of a run have reported; "" if none is known.

    `read` reads a file of the run's folder.
    """
    try:
        name = json.loads(read(_SNAPSHOT))["latest_checkpoint_result"]["checkpoint_dir_name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, CorruptData):
        return ""
    return name if isinstance(name, str) else ""


# Private: that a placement group's id ends with that of the job that created it.
# Why: reservations of other jobs must stay, and `placement_group_table` does not say whose one is.
# Until: it does. The state API does already, but needs a dashboard, which a private cluster is started without.


def is_of_job(placement_group_id: str, job_id: str) -> bool:
    """True if a job created a placement group; both ids are hexadecimal."""
    return placement_group_id.endswith(job_id)


# Private: what is free on each node.
# Why: a block gets a node to itself, and the sum over the cluster does not say which one is free.
# Until: `ray.available_resources` says it by node.


def free_by_node() -> dict[str, dict[str, float]]:
    """The free resources of each living node, by the node's id."""
    from ray._private import state

    return state.available_resources_per_node()


# Private: the switch for systems without clusters, and that settings are read when Ray is imported.
# Why: a private cluster is to open no port to others, and needs its own token, whatever was imported before.
# Until: `ray.init` takes an address to bind to, and a token.

LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def read_settings_again() -> None:
    """Makes Ray, which can be imported already, read authentication mode, token and `LOOPBACK_ONLY` again."""
    from ray import _raylet
    from ray._private import ray_constants

    core: Any = _raylet
    core.Config.initialize("")
    core.AuthenticationTokenLoader.instance().reset_cache()
    ray_constants.ENABLE_RAY_CLUSTER = os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR) not in ("0", "false")


# Private: the job table with each job's runtime environment.
# Why: a reservation of a dead job can be removed if the job was a launch of this tool, which a variable tells.
# Until: `ray.util.state.list_jobs` works without a dashboard and shows a driver's runtime environment.


def ended_jobs_with(variable: str) -> list[str]:
    """The ids, in hexadecimal, of the cluster's ended jobs whose processes had a variable in their environment."""
    from ray._private import worker

    table: Any = worker.global_worker.gcs_client  # pyright: ignore[reportAttributeAccessIssue]
    return [
        job_id.hex()
        for job_id, job in table.get_all_job_info().items()
        if job.is_dead and variable in _environment_of(job.config.runtime_env_info.serialized_runtime_env)
    ]


def _environment_of(runtime_env: str) -> Mapping[str, str]:
    try:
        return json.loads(runtime_env).get("env_vars", {})
    except (ValueError, AttributeError):
        return {}


# Private: the name, the flags and the port file of the process that makes a node a head.
# Why: a launch must not start next to a cluster that was overlooked, nor wait for Ray to find none.
# Until: Ray lists the clusters that have a head on this machine. `ray status` finds one that it chooses itself.


def head_address(pid: int) -> str | None:
    """The address at which a cluster can be joined whose head is this process; None for any other process.

    A cluster that a program has started for itself, by `ray.init`, ends with that program and is not to be joined.
    """
    words = _command_line(pid)
    if not words or Path(words[0]).name != "gcs_server":
        return None
    flags = dict(word.removeprefix("--").split("=", 1) for word in words[1:] if "=" in word)
    port = flags.get("gcs_server_port", "0")
    if port == "0":  # as `ray.init` starts it, and `ray start --port=0`
        port = None if _is_of_program(pid, flags) else _chosen_port(flags)
    return None if port is None else f"{flags.get('node-ip-address', '127.0.0.1')}:{port}"


def _is_of_program(pid: int, flags: Mapping[str, str]) -> bool:
    """A session is named after the process that started it; `ray start` exits or, with --block, waits as a parent."""
    starter = flags.get("session-name", "").rpartition("_")[2]
    try:
        parent = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
    except OSError:
        return True
    is_ray_start = any(Path(a).name == "ray" and b == "start" for a, b in pairwise(_command_line(int(parent))))
    return parent == starter and not is_ray_start


def _chosen_port(flags: Mapping[str, str]) -> str | None:
    try:
        return Path(flags["session-dir"], f"gcs_server_port_{flags['node-id']}").read_text(encoding="utf-8").strip()
    except (KeyError, OSError):
        return None  # another user's, or not up yet


def _command_line(pid: int) -> list[str]:
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [word.decode(errors="replace") for word in data.split(b"\0") if word]


# Private: the variable by which a submitted job's process learns what it is.
# Why: a job runs in a folder that Ray deletes, where relative paths must not lead; RAY_ADDRESS proves nothing.
# Until: `ray.get_runtime_context()` says it before Ray is started.

_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def submission_id(environment: Mapping[str, str]) -> str | None:
    """The id of the submitted job that a process with this environment is the entry point of; None outside a job."""
    try:
        return str(json.loads(environment.get(_JOB_VARIABLE, ""))["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return None
