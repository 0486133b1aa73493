"""Sweeps as submitted jobs on a real Ray head that asks for a token: stopped by `ray job stop`, completed by a restore.

The head is this module's own: own ports, own folder, and a mark by which all of it is killed.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.engine.processes import launch_processes
from sweeps.records.experiment import Experiment
from tests.helpers.ports import free_ports

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
TOKEN = "0123456789abcdef" * 4
LEG = "moe_fp8_experts_nocompile_cap1p0"
SWEEP = [
    *("sweeps/capacity.py", "--preset", "tiny", "--legs", LEG, "--num-workers", "1"),
    *("--num-steps", "30", "--set", "run.checkpoint_every=15"),
]


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """With the agents of a node, whose process titles have overwritten the mark in their environment."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)


class Head:
    """A Ray head and the commands that a user sends to it."""

    def __init__(self, folder: Path) -> None:
        self.port, self.dashboard, *others = free_ports(5)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # Ray's 15 would make its workers wait for all other tests
            "CUDA_VISIBLE_DEVICES": "",
        }
        # With a mark all of it is found at the end, and launches next to it do not take it for a head they overlooked.
        self.mark = f"test.{os.getpid()}"
        self.own = {launch_processes.MARK_VARIABLE: self.mark, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        names = ["ray-client-server-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"]
        self.process = subprocess.Popen(
            [
                *(BIN / "ray", "start", "--head", "--block", "--num-cpus=4", "--object-store-memory=200000000"),
                *(f"--temp-dir={folder}", f"--port={self.port}", f"--dashboard-port={self.dashboard}"),
                *(f"--{name}={port}" for name, port in zip(names, others, strict=True)),
            ],
            env=self.environment | self.own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )

    def add_node(self, before: list[str]) -> "subprocess.Popen[bytes]":
        """Another node here, once the head knows it, with mounts of its own; skips where that is forbidden."""
        apart = ["unshare", "--map-root-user", "--mount", "--kill-child"]
        if subprocess.run([*apart, *before], capture_output=True).returncode != 0:
            pytest.skip("this machine gives no process mounts of its own")
        ray = [BIN / "ray", "start", f"--address=127.0.0.1:{self.port}", "--block", "--num-cpus=1"]
        script = 'n=$1; shift; "${@:1:n}" && shift $n && exec "$@"'
        node = subprocess.Popen(
            [*apart, "bash", "-c", script, "bash", str(len(before)), *before, *ray],
            env=self.environment | self.own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        deadline = time.monotonic() + 120
        while self.num_nodes() < 2:
            assert node.poll() is None, "the node has ended"
            assert time.monotonic() < deadline, "the node does not join"
        return node

    def num_nodes(self) -> int:
        listed = subprocess.run(
            [BIN / "ray", "list", "nodes", "--format=json", "--address", f"http://127.0.0.1:{self.dashboard}"],
            env=self.environment,
            capture_output=True,
            text=True,
        )
        return sum(node["state"] == "ALIVE" for node in json.loads(listed.stdout)) if listed.returncode == 0 else 0

    def end(self) -> None:
        """By mark and process group alone: other Rays can run on this machine, so `ray stop` is out of the question."""
        assert launch_processes.end(lambda pid: launch_processes.is_member(pid, self.mark), timeout_s=60)
        end_group(self.process)

    def job(self, verb: str, *words: str | Path, timeout_s: float = 800) -> subprocess.CompletedProcess[str]:
        command = [BIN / "ray", "job", verb, "--address", f"http://127.0.0.1:{self.dashboard}", *words]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )

    def submit(self, *words: str | Path, wait: bool = True, id: str = "") -> subprocess.CompletedProcess[str]:
        runtime = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "90"}}
        options = ["--working-dir", ".", "--runtime-env-json", json.dumps(runtime), *([] if wait else ["--no-wait"])]
        return self.job("submit", *options, *(["--submission-id", id] if id else []), "--", "nanochat-sweep", *words)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="nsj-"))  # a short name: it holds Unix sockets
    ray = Head(folder)
    try:
        deadline = time.monotonic() + 180
        while ray.job("list").returncode != 0:
            assert ray.process.poll() is None, "the head has ended"
            assert time.monotonic() < deadline, "the head does not answer"
        yield ray
    finally:
        ray.end()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_job_is_stopped_with_a_checkpoint_and_a_restore_completes_it(head: Head, tmp_path: Path) -> None:
    submitted = head.submit("launch", *SWEEP, "--name", "mine", "--storage", tmp_path, wait=False, id="first")
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    deadline = time.monotonic() + 300
    while not any(b'"world_size": 1' in file.read_bytes() for file in tmp_path.glob("mine/trials/*/attempts/*.json")):
        assert time.monotonic() < deadline, head.job("logs", "first").stdout
        time.sleep(0.2)
    stopped = head.job("stop", "first")
    assert "was stopped" in stopped.stdout, stopped.stdout + stopped.stderr

    experiment = Experiment.open(str(tmp_path / "mine"))
    attempt = experiment.trial(f"{LEG}-b1").attempts()[0]
    assert (attempt.end, experiment.state()) == ("stopped", "interrupted")
    assert f"continue with: nanochat-sweep restore {tmp_path / 'mine'}" in head.job("logs", "first").stdout

    restored = head.submit("restore", "mine", "--storage", tmp_path)
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert experiment.state() == "completed"
    record = experiment.trial(f"{LEG}-b1")
    assert [row.step for row in record.rows()] == list(range(30))
    last = record.attempts()[-1]
    assert last.first_step == 1 + max(row.step for row in record.rows() if row.attempt == 0)


def test_a_relative_storage_is_refused_in_a_job(head: Head) -> None:
    refused = head.submit("launch", *SWEEP, "--storage", "results")
    assert refused.returncode != 0
    assert "--storage results is relative, and job raysubmit_" in refused.stdout
    assert "exit code 2" in refused.stdout + refused.stderr


def test_a_launch_without_the_token_says_what_to_set(head: Head, tmp_path: Path) -> None:
    command = [BIN / "nanochat-sweep", "launch", *SWEEP, "--address", f"127.0.0.1:{head.port}", "--storage", tmp_path]
    nobody = {k: v for k, v in head.environment.items() if not k.startswith("RAY_AUTH")} | {"HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=nobody, capture_output=True, text=True, timeout=300)
    assert done.returncode == 69, done.stderr
    assert "set RAY_AUTH_MODE=token" in done.stderr


def test_a_node_that_does_not_reach_the_storage_is_named_before_anything_starts(head: Head, tmp_path: Path) -> None:
    """The second node sees its own empty folder in the storage's place, as a node without the mount does."""
    node = head.add_node(before=["mount", "-t", "tmpfs", "none", str(tmp_path)])
    words = ["launch", *SWEEP, "--address", f"127.0.0.1:{head.port}", "--name", "apart", "--storage", tmp_path]
    command = [BIN / "nanochat-sweep", *words]
    try:
        done = subprocess.run(command, cwd=ROOT, env=head.environment, capture_output=True, text=True, timeout=300)
    finally:
        end_group(node)
    assert done.returncode == 69, done.stderr
    assert f"not every node of the cluster reaches {tmp_path / 'apart'} (" in done.stderr
    assert "it holds no manifest.json there" in done.stderr
    assert list(tmp_path.iterdir()) == []
