"""The command-line trainer on one GPU and on two of a host: it saves on two and continues on either number.

Its experts are kept even by a bias, whose loads are added up over the ranks, and its attention is the portable one.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat.checkpoints.format import verify

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
DEVICE = "cuda"
FLAGS = shlex.split(
    "--use-moe --n-experts 4 --expert-topk 2 --moe-freq 1 --expert-hidden-mult 2 --router-bias-rate 0.001 "
    "--balance-loss-coeff 0 --depth 2 --aspect-ratio 64 --head-dim 64 --max-seq-len 128 --device-batch-size 2 "
    "--total-batch-size 1024 --num-iterations 8 --save-every 4 --eval-every 8 --eval-tokens 4096 "
    "--core-metric-every -1 --sample-every -1 --attention sdpa --compile-mode none --model-tag pair"
)
BPB = re.compile(r"Step 00008 \| Validation bpb: (\d\.\d+)")


def _trained(num_processes: int, root: Path, *more: str) -> str:
    """What the trainer prints on so many GPUs."""
    if DEVICE == "cuda" and torch.cuda.device_count() < num_processes:
        pytest.skip(f"needs {num_processes} GPUs, torch sees {torch.cuda.device_count()}")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    command = [*launcher, "-m", "scripts.base_train", "--", *FLAGS, "--device-type", DEVICE, *more]
    done = subprocess.run(
        [*command, "--checkpoint-root", str(root)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _bits_per_byte(log: str) -> float:
    found = BPB.search(log)
    assert found is not None, log
    return float(found[1])


def test_what_two_gpus_have_saved_one_and_two_go_on_with(tmp_path: Path):
    whole = _trained(2, tmp_path / "whole")
    for num_processes in (2, 1):
        root = tmp_path / str(num_processes)
        shutil.copytree(tmp_path / "whole", root)
        shutil.rmtree(root / "base_checkpoints" / "pair" / "step_000008")
        log = _trained(num_processes, root, "--resume-from-step", "4")
        assert "Number of iterations: 8, starting at 4" in log
        assert _bits_per_byte(log) == pytest.approx(_bits_per_byte(whole), abs=0.02)
        verify(root / "base_checkpoints" / "pair" / "step_000008")


def test_two_gpus_reach_what_one_reaches(tmp_path: Path):
    one, two = (_bits_per_byte(_trained(n, tmp_path / str(n))) for n in (1, 2))
    assert two == pytest.approx(one, abs=0.02)
