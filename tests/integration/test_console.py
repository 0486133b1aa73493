"""What a person sees and steers with, on a real private cluster: the live table, stop, logs, retry."""

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment

pytestmark = pytest.mark.integration

PROGRAM = Path(sys.executable).parent / "nanochat-sweep"
OWN = {"CUDA_VISIBLE_DEVICES": "", "RAY_ADDRESS": "local"}


def call(storage: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [PROGRAM, *words, "--storage", storage]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | OWN | environment)


def test_a_launch_on_a_terminal_is_stopped_from_another_one(tmp_path: Path) -> None:
    leg = ["smoke", "--legs", "exact", "--num-workers", "1", "--num-steps", "1000"]
    words = ["launch", *leg, "--name", "live", "--storage", str(tmp_path)]
    pid, controller = pty.fork()
    if pid == 0:
        ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.environ.pop("NO_COLOR", None)
        os.execve(PROGRAM, [str(PROGRAM), *words], os.environ | OWN | {"TERM": "xterm"})
    written = b""

    def read_until(pattern: bytes, timeout_s: float = 400) -> None:
        nonlocal written
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, written):
            assert time.monotonic() < deadline, written.decode(errors="replace")[-2000:]
            if select.select([controller], [], [], 1.0)[0]:
                try:
                    written += os.read(controller, 2**16)
                except OSError:  # the program has ended
                    assert re.search(pattern, written), written.decode(errors="replace")[-2000:]

    read_until(b"tok/s")
    read_until(rb" [1-9]\d? %")
    stopped = call(tmp_path, "stop", "live")
    read_until(re.escape(f"nanochat-sweep restore {tmp_path / 'live'}".encode()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    os.close(controller)

    assert stopped.returncode == 0
    last = stopped.stderr.splitlines()[-1]
    assert last == f"live has ended: 0 of 1 trial completed; continue with: nanochat-sweep restore {tmp_path / 'live'}"
    shown = written.decode()
    assert "nanochat-sweep stop: the running leg stops after its step" in shown
    assert "\x1b[?" not in shown
    assert "step 00000/01000" in call(tmp_path, "logs", "live").stdout
    assert [each["state"] for each in json.loads(call(tmp_path, "ls", "--json").stdout)["experiments"]] == [
        "interrupted"
    ]
    assert call(tmp_path, "stop", "live").stderr == "live is not running (interrupted); nothing to stop\n"


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    leg = ["smoke", "--legs", "exact", "--num-workers", "1", "--num-steps", "100000"]
    command = [PROGRAM, "launch", *leg, "--name", "twice", "--storage", tmp_path]
    environment = os.environ | OWN
    with subprocess.Popen(command, env=environment, text=True, process_group=0, stderr=subprocess.PIPE) as launched:
        assert launched.stderr is not None
        assert any("tok/s" in line for line in launched.stderr)
        os.killpg(launched.pid, signal.SIGINT)
        time.sleep(1.5)  # two within a second are one request
        os.killpg(launched.pid, signal.SIGINT)
        told = launched.communicate(timeout=45)[1]  # Ray waits 60 s for a cluster that is gone
    assert launched.returncode == 130, told
    assert "stopped at once; a restore continues from the last checkpoint" in told


BUG = """
import sys

class Bug:
    def find_spec(self, name, path=None, target=None):
        if name == "nanochat.train":
            raise ImportError("a bug that is fixed later")

sys.meta_path.insert(0, Bug())
"""


def test_a_leg_that_failed_by_a_bug_completes_when_it_is_retried_without(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(BUG)
    path = {"PYTHONPATH": f"{broken}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    leg = ["smoke", "--legs", "exact", "--num-workers", "1", "--num-steps", "8"]
    launched = call(tmp_path, "launch", *leg, "--name", "mine", **path)
    assert launched.returncode == 5, launched.stderr
    assert "failed: ImportError: a bug that is fixed later" in launched.stderr
    assert call(tmp_path, "restore", "mine").returncode == 5  # not tried again by itself

    retried = call(tmp_path, "retry", "mine", "--legs", "exact")
    assert retried.returncode == 0, retried.stderr
    assert retried.stderr.startswith("mine: trying again exact-b1\n")
    attempts = Experiment.open(str(tmp_path / "mine")).trial("exact-b1").attempts()
    assert [attempt.end for attempt in attempts] == ["failed", "completed"]
    assert json.loads(call(tmp_path, "status", "mine", "--json").stdout)["state"] == "completed"
