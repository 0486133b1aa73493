"""A sweep that is stopped by SIGINT, killed by SIGKILL and restored each time equals an undisturbed one, bit for bit.

The real program, the real trainer, two legs on two CPU processes; undisturbed it is the README's first experiment.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat.stats import REPEATABLE
from sweeps.engine.processes import launch_processes
from sweeps.records.experiment import Experiment

pytestmark = pytest.mark.integration

PROGRAM = Path(sys.executable).parent / "nanochat-sweep"
NUM_STEPS = 40


def start(storage: Path, *words: str) -> "subprocess.Popen[str]":
    """The program in its own process group, as a shell starts it, so that Ctrl-C reaches all of it."""
    command = [str(PROGRAM), *words, "--storage", str(storage)]
    return subprocess.Popen(command, text=True, process_group=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read_until(process: "subprocess.Popen[str]", text: str) -> list[str]:
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"the program ended before it said {text!r}:\n{''.join(lines)}")


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def table(experiment: Experiment) -> list[dict[str, object]]:
    rows = [row for record in experiment.trials() for row in record.rows()]
    return [{k: v for k, v in vars(row).items() if k in REPEATABLE or k == "trial"} for row in rows]


def test_a_restored_sweep_equals_an_undisturbed_one(
    first_experiment: Any, digests: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    undisturbed = Experiment.open(str(first_experiment.place / "storage" / "first"))
    # Launcher and ranks look once a second, so a fast machine continues for some steps: the checkpoint comes early.
    launched = start(tmp_path, "launch", "smoke", "--set", "run.checkpoint_every=8", "--name", "rough")
    read_until(launched, "[1/2] exact-b1: checkpoint at step 8")
    os.killpg(launched.pid, signal.SIGINT)
    code, _, err = finish(launched)
    assert code == 130, err
    experiment = Experiment.open(str(tmp_path / "rough"))
    assert experiment.state() == "interrupted"

    restored = start(tmp_path, "restore", "rough")
    read_until(restored, "[2/2] capped-b1: checkpoint at step 8")
    first_leg = digests(tmp_path / "rough" / "trials" / "exact-b1")
    assert "result.json" in first_leg
    restored.kill()
    finish(restored)
    deadline = time.monotonic() + 60
    while launch_processes.leftovers(experiment.uri, own_mark=""):
        assert time.monotonic() < deadline, "processes outlive the launcher"
        time.sleep(0.1)

    code, _, err = finish(start(tmp_path, "restore", "rough"))
    assert code == 0, err
    assert "exact-b1" not in err
    assert experiment.state() == "completed"
    assert table(experiment) == table(undisturbed)
    assert [row["step"] for row in table(experiment)] == list(range(NUM_STEPS)) * 2
    assert digests(tmp_path / "rough" / "trials" / "exact-b1") == first_leg
    assert [attempt.end for attempt in experiment.trial("exact-b1").attempts()] == ["stopped", "completed"]
    assert [attempt.end for attempt in experiment.trial("capped-b1").attempts()] == [None, "completed"]
