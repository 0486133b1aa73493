# pyright: reportPrivateUsage=false
"""What the engine relies on in Ray beyond its public interface still holds for the version that is installed."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray import cloudpickle
from ray.exceptions import ActorDiedError
from ray.train.torch import TorchTrainer

from sweeps.engine.processes import launch_processes
from sweeps.engine.ranks.process_group import ProcessGroup
from sweeps.engine.ray_private import fixed_workers, head_address, is_from_ray, lean_trainer

AS_THE_CONTROLLER = """
import pickle, sys
pickle.loads(bytes.fromhex(sys.argv[1]))
sys.exit("torch" in sys.modules)
"""
SCALE = ray.train.ScalingConfig(num_workers=2)
NO_PROCESS = 2**22 + 1


def never(values: dict[str, object]) -> None:
    raise AssertionError("no rank is started")


def names(trainer: TorchTrainer) -> list[str]:
    return [type(each).__name__ for each in trainer._create_default_callbacks()]


def run_with_pickled(value: object) -> int:
    pickled = cloudpickle.dumps(value).hex()  # pyright: ignore[reportPrivateImportUsage]
    return subprocess.run([sys.executable, "-c", AS_THE_CONTROLLER, pickled], timeout=120).returncode


def test_what_the_controller_is_given_needs_no_torch() -> None:
    lean = lean_trainer(never, ProcessGroup("gloo"), SCALE)
    assert run_with_pickled((lean._create_default_callbacks(), fixed_workers(SCALE))) == 0
    assert run_with_pickled(TorchTrainer(never, scaling_config=SCALE)._create_default_callbacks()) == 1


def test_no_process_is_started_for_datasets_and_none_to_watch_over_placement_groups() -> None:
    left_out = ["DatasetsCallback", "PlacementGroupCleanerCallback"]
    lean = names(lean_trainer(never, ProcessGroup("gloo"), SCALE))
    assert [name for name in names(TorchTrainer(never, scaling_config=SCALE)) if name not in lean] == left_out[::-1]


def test_an_exception_of_the_training_function_is_told_from_rays_own() -> None:
    assert not is_from_ray(ValueError("mine"))
    assert is_from_ray(ActorDiedError())


@contextlib.contextmanager
def process_like_a_head(folder: Path, *flags: str) -> Iterator[int]:
    """A process of the name that makes a node a head; gives its id once its command line can be seen."""
    program = folder / "gcs_server"
    if not program.exists():
        shutil.copy(Path(sys.executable).resolve(), program)
    command = [str(program), "-c", "input()", "--node-ip-address=10.1.2.3", *flags]
    head = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "PYTHONHOME": sys.base_prefix})
    try:
        while b"--node-ip-address" not in Path(f"/proc/{head.pid}/cmdline").read_bytes():
            assert head.poll() is None
        yield head.pid
    finally:
        head.kill()
        head.communicate()


def test_a_head_is_recognised_by_its_process(tmp_path: Path) -> None:
    with process_like_a_head(tmp_path, "--gcs_server_port=6399") as pid:
        assert head_address(pid) == "10.1.2.3:6399"
    assert head_address(os.getpid()) is None
    assert head_address(NO_PROCESS) is None


def test_a_head_that_chose_its_own_port_is_read_from_the_file_that_holds_it(tmp_path: Path) -> None:
    flags = ["--gcs_server_port=0", f"--session-dir={tmp_path}", "--node-id=ab", f"--session-name=s_1_{NO_PROCESS}"]
    with process_like_a_head(tmp_path, *flags) as pid:
        assert head_address(pid) is None  # not up yet
        (tmp_path / "gcs_server_port_ab").write_text("41234")
        assert head_address(pid) == "10.1.2.3:41234"


def test_a_cluster_that_a_living_program_started_for_itself_is_no_head(tmp_path: Path) -> None:
    (tmp_path / "gcs_server_port_ab").write_text("41234")
    flags = ["--gcs_server_port=0", f"--session-dir={tmp_path}", "--node-id=ab", f"--session-name=s_1_{os.getpid()}"]
    with process_like_a_head(tmp_path, *flags) as pid:
        assert head_address(pid) is None


def heads_of(mark: str) -> list[str]:
    return [address for pid in launch_processes.members(mark) if (address := head_address(pid)) is not None]


def wait_for_a_head(mark: str, process: "subprocess.Popen[Any]") -> list[str]:
    deadline = time.monotonic() + 120
    while not (found := heads_of(mark)):
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


@pytest.mark.integration
def test_ray_start_makes_a_head_at_any_port_and_ray_init_makes_none() -> None:
    folder = tempfile.mkdtemp(prefix="nsh-")  # a short name: it holds Unix sockets
    mark = f"heads.{os.getpid()}"
    environment = {**os.environ, launch_processes.MARK_VARIABLE: mark, "RAY_USAGE_STATS_ENABLED": "0"}
    own = f"import ray; ray.init(address='local', num_cpus=1, include_dashboard=False, _temp_dir={folder + '/own'!r})"
    commands = {
        "init": [sys.executable, "-c", f"{own}; print('up', flush=True); input()"],
        "start": [
            *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--port=0", "--num-cpus=1"),
            *("--include-dashboard=false", f"--temp-dir={folder}/start", "--object-store-memory=80000000"),
        ],
    }
    quiet: dict[str, Any] = {
        "env": environment,
        "stdin": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "process_group": 0,
    }
    init = subprocess.Popen(commands["init"], stdout=subprocess.PIPE, **quiet)
    try:
        assert init.stdout is not None
        assert init.stdout.readline() == b"up\n"
        assert heads_of(mark) == []
        start = subprocess.Popen(commands["start"], stdout=subprocess.DEVNULL, **quiet)
        (address,) = wait_for_a_head(mark, start)
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()
    finally:
        assert launch_processes.end(lambda pid: launch_processes.is_member(pid, mark), timeout_s=60)
        shutil.rmtree(folder, ignore_errors=True)
