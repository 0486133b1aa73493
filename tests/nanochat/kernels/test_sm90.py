"""Every kernel written here compiles for Hopper and keeps its values in registers; no GPU is needed for that."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_every_kernel_compiles_for_hopper_without_spills() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.helpers.sm90"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["without_case"] == [], "each kernel has a case in tests/helpers/sm90.py"
    assert len(found["taken"]) >= 16
    for name, taken in found["taken"].items():
        assert taken["stack"] == 0, f"{name} spills: {taken}"
        assert taken["registers"] <= 128, f"{name}: {taken}"
        assert taken["shared"] <= 64 * 1024, f"{name}: {taken}"
