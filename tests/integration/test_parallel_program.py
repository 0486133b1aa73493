"""The program as a user types it, with the real trainer on two Ray nodes of this machine: its launcher is killed."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment
from tests.helpers.nodes import nodes

pytestmark = [pytest.mark.integration, pytest.mark.long]

PROGRAM = Path(sys.executable).parent / "nanochat-sweep"
NUM_STEPS = 40


def start(storage: Path, address: str, *words: str) -> "subprocess.Popen[str]":
    command = [str(PROGRAM), *words, "--storage", str(storage), "--address", address]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, err = process.communicate(timeout=600)
    return process.returncode, err


def wait_until_both_blocks_train(storage: Path, launched: "subprocess.Popen[str]") -> Experiment:
    """Until a leg of each block has a checkpoint behind it."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and launched.poll() is None:
        if (storage / "side" / "manifest.json").exists():
            experiment = Experiment.open(str(storage / "side"))
            blocks = [trial.block for trial in experiment.plan.trials if len(experiment.trial(trial.name).rows()) > 10]
            if {1, 2} <= set(blocks):
                return experiment
        time.sleep(0.5)
    launched.kill()
    raise AssertionError(finish(launched)[1])


def test_a_killed_launcher_costs_neither_block_its_node(tmp_path: Path) -> None:
    with nodes(1, 1) as cluster:
        words = ("--num-workers", "1", "--set", "run.checkpoint_every=8", "--blocks", "2", "--parallel", "auto")
        launched = start(tmp_path, cluster.address, "launch", "smoke", "--name", "side", *words)
        experiment = wait_until_both_blocks_train(tmp_path, launched)
        launched.kill()
        finish(launched)
        before = {record.name: [a.node_id for a in record.attempts()] for record in experiment.trials()}
        code, err = finish(start(tmp_path, cluster.address, "restore", "side"))
    assert code == 0, err
    assert err.count(" runs on ") == 2, err
    assert experiment.state() == "completed"
    by_block: dict[int, set[str | None]] = {}
    for trial, record in zip(experiment.plan.trials, experiment.trials(), strict=True):
        assert [row.step for row in record.rows()] == list(range(NUM_STEPS))
        seen = [attempt.node_id for attempt in record.attempts()]
        assert seen[: len(before[record.name])] == before[record.name]
        by_block.setdefault(trial.block, set()).update(seen)
    assert [len(found) for found in by_block.values()] == [1, 1], "a node is known by its id while its cluster lives"
    report = experiment.store.read("report/report.md").decode()
    assert all(f"/{node_id[:6]}" in report for found in by_block.values() for node_id in found if node_id)
