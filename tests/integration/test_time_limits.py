"""A run ends by itself before a time limit, and when a job manager gives notice of one; a restore continues.

The real program on a private cluster.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment

pytestmark = pytest.mark.integration

PROGRAM = Path(sys.executable).parent / "nanochat-sweep"
TRAINING = "steps on 1 rank"


def start(*words: str | Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [PROGRAM, *words, "--address", "local"]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def test_a_run_stops_by_its_own_clock_and_then_by_notice(tmp_path: Path) -> None:
    leg = ("smoke", "--legs", "exact", "--num-workers", "1", "--num-steps", "5000")
    sweep = (*leg, "--name", "mine", "--storage", tmp_path)
    began = time.monotonic()
    launched = start("launch", *sweep, "--stop-after", "25s")
    _, err = launched.communicate(timeout=600)
    assert launched.returncode == 130, err
    assert time.monotonic() - began > 25
    assert "--stop-after 25 s: the running leg stops after its step" in err
    experiment = Experiment.open(str(tmp_path / "mine"))
    assert experiment.state() == "interrupted"

    restored = start("restore", experiment.uri)
    assert restored.stderr is not None
    told: list[str] = []
    for line in restored.stderr:
        told.append(line)
        if TRAINING in line:
            break
    else:
        raise AssertionError(f"no leg was trained:\n{''.join(told)}")
    restored.send_signal(signal.SIGUSR1)
    _, err = restored.communicate(timeout=600)
    assert restored.returncode == 130, err
    assert "SIGUSR1: the running leg stops after its step" in err
    assert experiment.trial("exact-b1").attempts()[-1].end == "stopped"
