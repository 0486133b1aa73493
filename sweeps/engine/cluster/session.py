"""The Ray cluster that one launch runs on: a private one that lives and dies with the launcher, or one to attach to.

Settings go to every process of the job by its runtime environment.
"""

# Ray and pyarrow are typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import contextlib
import functools
import os
import socket
import subprocess
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

from sweeps.engine.cluster.checks import LOCAL, Resources, local_resources
from sweeps.engine.cluster.nodes import living_nodes
from sweeps.engine.cluster.private import private_settings, session_folder
from sweeps.engine.processes import launch_processes
from sweeps.spec.errors import NoCluster

COLLECTIVE_TIMEOUT_S = 1800  # longer than the hang watch, which stores stacks first
_ANSWER_S = 10.0

# For this process, before ray is imported. Ray's own boxes, tips, usage reports and result files stay away.
_LAUNCHER_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Else Ray starts a process per core in advance, for a default environment that nothing of ours has.
    "RAY_prestart_worker_first_driver": "0",
    # Else asking a cluster that is gone, as after a second Ctrl-C, starts another one in the launcher.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_worker_niceness": "0",  # Ray's default is 15: the ranks would starve beside anything else that runs
}
_JOB_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": str(COLLECTIVE_TIMEOUT_S),
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


@contextlib.contextmanager
def connected(address: str, *, num_workers: int, mark: str) -> Generator[Resources]:
    """Starts a private cluster or attaches to one; afterwards nothing of it that we started is left on this host."""
    os.environ.update(_LAUNCHER_ENVIRONMENT)
    with contextlib.ExitStack() as stack:
        if address == LOCAL:
            folder, for_ray = stack.enter_context(session_folder())
            stack.callback(_dismiss, launch_processes.start_watchdog(mark, folder))
            stack.enter_context(private_settings())
            os.environ[launch_processes.MARK_VARIABLE] = mark
            stack.callback(os.environ.pop, launch_processes.MARK_VARIABLE, None)
            start = functools.partial(_start_private, num_workers, mark, for_ray)
        else:
            stack.callback(_dismiss, launch_processes.start_watchdog(mark))
            start = functools.partial(_attach, address, mark)
        import ray

        stack.callback(ray.shutdown)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield start()


def _start_private(num_workers: int, mark: str, folder: Path) -> Resources:
    """CPUs are declared by need, so that workers on fewer cores share them instead of waiting for ever."""
    import ray

    resources = local_resources()
    job = {**_JOB_ENVIRONMENT, launch_processes.MARK_VARIABLE: mark}
    job["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # this host is not going to be drained
    num_cpus = max(os.cpu_count() or 1, num_workers + 2)
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=resources.num_gpus,
            include_dashboard=False,
            _temp_dir=str(folder),
            **_quiet(job),
        )
    except Exception as error:
        raise too_slow_a_start(error) or error from None
    return resources


def too_slow_a_start(error: Exception) -> NoCluster | None:
    """What Ray's plain exception for a start that took too long means; None for any other."""
    if "timed out during startup" not in str(error):
        return None
    return NoCluster(
        "a private Ray cluster did not start in time, because this machine is too busy; "
        "wait for other work on it to end, then give the command again"
    )


def _attach(address: str, mark: str) -> Resources:
    import ray
    from ray.exceptions import RayError

    job = {**_JOB_ENVIRONMENT, launch_processes.MARK_VARIABLE: mark}
    if address != "auto":
        _check_answers(address)
    try:
        ray.init(address=address, **_quiet(job))
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise NoCluster(f"the Ray cluster at {address} cannot be joined: {_reason(error)}") from error
    nodes = living_nodes()
    num_cpus, num_gpus = int(sum(node.num_cpus for node in nodes)), int(sum(node.num_gpus for node in nodes))
    return Resources(num_cpus, num_gpus, where=f"the cluster at {address}", nodes=nodes)


def _check_answers(address: str) -> None:
    """Raises NoCluster if nothing listens at host:port, which Ray itself would continue trying for many minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        return  # Ray says what an address must look like
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise NoCluster(
            f"nothing answers at {address} ({error}); is the cluster up, and is this its head's address and port?"
        ) from None


def _reason(error: BaseException) -> str:
    """Ray says why in the cause of the cause, over several lines; of the token it is what to do that matters."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    if any("AuthToken" in text for text in texts):
        return "it asks for a token; set RAY_AUTH_MODE=token, with the token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
    return texts[0].strip().partition("\n")[0]


def _quiet(job: dict[str, str]) -> dict[str, Any]:
    return {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": job}}


def _dismiss(watchdog: "subprocess.Popen[bytes]") -> None:
    """Closing the pipe makes it kill what is left of the launch, remove its session, then exit."""
    assert watchdog.stdin is not None
    watchdog.stdin.close()
    watchdog.wait(timeout=15)
