"""The commands that `plan capacity --commands` prints run as they are printed, sizes and number of processes aside."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cli.plan import plan
from nanochat.checkpoints.format import verify
from nanochat.data.corpus import prepare_embedded
from nanochat.flags import LAUNCHER_FLAGS, parse_flags
from tests.helpers.flags import edited

CUT = shlex.split(
    "--depth 2 --head-dim 32 --max-seq-len 64 --device-batch-size 2 --total-batch-size 512 --num-iterations 3 "
    "--save-every 3 --device-type cpu"
)


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    plan(sweep="capacity", commands=True)
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def test_cut_in_size_every_leg_keeps_what_it_is_about(commands: list[list[str]]):
    configs = [parse_flags(edited(command[7:], *CUT))[0] for command in commands]
    assert {config.model.depth for config in configs} == {2}
    assert [(c.compile.mode, c.moe and c.moe.capacity_factor, c.precision.experts) for c in configs] == [
        ("static", None, "fp8"),
        ("static", 1.0, "fp8"),
        ("static", 1.25, "fp8"),
        ("dynamic", 1.0, "fp8"),
        ("none", 1.0, "fp8"),
        ("static", None, "bf16"),
    ]


@pytest.mark.integration
def test_a_leg_runs_on_two_processes_on_a_cpu(commands: list[list[str]], tmp_path: Path):
    (command,) = (c for c in commands if "moe_fp8_experts_nocompile_cap1p0" in c)
    assert command[:4] == ["torchrun", *LAUNCHER_FLAGS, "--nproc_per_node=8"]
    prepare_embedded(tmp_path / "cache")
    launcher = [sys.executable, "-m", "torch.distributed.run", *LAUNCHER_FLAGS, "--nproc_per_node=2"]
    environment = os.environ | {"NANOCHAT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    pasted = [*launcher, *command[4:7], *edited(command[7:], *CUT, "--checkpoint-root", str(tmp_path))]
    ran = subprocess.run(pasted, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    assert sum(line.startswith("step 0") for line in ran.stdout.splitlines()) == 3
    assert "FP8 (tensorwise): matrices converted 13 " in ran.stdout
    verify(tmp_path / "base_checkpoints" / "moe_fp8_experts_nocompile_cap1p0" / "step_000003")
