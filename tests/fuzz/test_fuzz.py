"""A share of the long run: damaged storage ends in a sentence, whatever is damaged and whatever reads it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("what", [[], ["--checkpoints"]], ids=["experiment", "checkpoint"])
def test_whatever_is_damaged_nothing_breaks_and_nothing_outside_is_touched(what: list[str]) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--mutations", "150", "--seed", "2026", *what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("150 mutations of seed 2026, "), done.stdout
    assert done.stdout.endswith("faults: 0\n")
