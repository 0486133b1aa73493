"""The torchrun trainer as its users run it: real processes, their log, their checkpoints, their exit codes."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.checkpoints.format import verify
from nanochat.config import ConfigError, TrainConfig
from nanochat.data.corpus import prepare_embedded
from nanochat.flags import LAUNCHER_FLAGS, RunOptions
from scripts import base_train

TINY = shlex.split(
    "--use-moe --n-experts 4 --expert-topk 2 --expert-hidden-mult 2 --depth 2 --aspect-ratio 32 --head-dim 16 "
    "--max-seq-len 32 --device-batch-size 2 --total-batch-size 128 --core-metric-every -1 --sample-every -1 "
    "--device-type cpu --compile-mode none --model-tag tiny"
)
_NUMBER = r"\d[\d,]*"
STEP_LINE = re.compile(
    r"step \d{5}/\d{5} \(\d+\.\d{2}%\) \| loss: (\d+\.\d{6}|nan|inf) \| bal: \d+\.\d{4} \| lrm: \d\.\d{2} "
    r"\| dt: \d+\.\d{2}ms \| tok/sec: " + _NUMBER + r" \| bf16_mfu: \d+\.\d{2} \| epoch: \d+ "
    r"\| total time: \d+\.\d{2}m( \| eta: \d+\.\dm)?"
)
START_LINES = (
    r"Checkpoint dir: .+/base_checkpoints/tiny",
    r"run: dummy",
    r"argv: .+",
    r"seed: 42",
    r"git commit: ([0-9a-f]{40}|unknown)",
    r"torch version: .+",
    r"host: .+",
    r"Vocab size: 32,768",
    r"Model config:",
    r"Parameter counts:",
    *(
        name + r" +: " + _NUMBER
        for name in (
            "wte", "value_embeds", "lm_head", "transformer_matrices", "scalars", "total", "moe_inactive", "active_total"
        )
    ),
    r"Estimated FLOPs per token: \d\.\d{6}e\+\d{2}",
    r"CPU: .+",
    r"Total batch size 128 => gradient accumulation steps: 1",
    r"torch\.compile disabled \[compile_mode=none\]",
)  # fmt: skip
END_LINES = (
    r"Peak memory usage: \d+\.\d{2}MiB",
    r"Total training time: \d+\.\d{2}m",
    r"Minimum validation bpb: \d\.\d{6}",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a fresh user, whose embedded corpus is ready."""
    cache = tmp_path_factory.mktemp("cache")
    prepare_embedded(cache)
    return os.environ | {"NANOCHAT_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _command(*flags: str, num_processes: int = 1) -> list[str]:
    launcher = [sys.executable]
    if num_processes > 1:
        launcher += ["-m", "torch.distributed.run", *LAUNCHER_FLAGS, f"--nproc_per_node={num_processes}"]
    separator = ["--"] if num_processes > 1 else []
    return [*launcher, "-m", "scripts.base_train", *separator, *flags]


def _run(environment: dict[str, str], *flags: str, num_processes: int = 1) -> subprocess.CompletedProcess[str]:
    command = _command(*flags, num_processes=num_processes)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def whole_run(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The log of twelve steps on two processes, and where its checkpoints lie."""
    root = tmp_path_factory.mktemp("checkpoints")
    ran = _run(environment, *_twelve_steps(root), num_processes=2)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines(), root / "base_checkpoints" / "tiny"


def _twelve_steps(root: Path) -> list[str]:
    how_long = shlex.split("--num-iterations 12 --eval-every 6 --eval-tokens 128 --save-every 5")
    return [*TINY, *how_long, "--checkpoint-root", str(root)]


def _losses(log: list[str]) -> dict[str, str]:
    """Step -> what the log says up to the learning rate: loss and balance to the last digit."""
    lines = [line for line in log if line.startswith("step ")]
    return {line.split()[1]: line.split(" | lrm")[0] for line in lines}


@pytest.mark.integration
def test_the_log_holds_the_lines_that_users_scripts_read_each_once(whole_run: tuple[list[str], Path]):
    log, _ = whole_run
    for pattern in (*START_LINES, *END_LINES):
        assert sum(bool(re.fullmatch(pattern, line)) for line in log) == 1, pattern
    steps = [line for line in log if line.startswith("step ")]
    assert all(STEP_LINE.fullmatch(line) for line in steps)
    assert [line.split()[1] for line in steps] == [f"{step:05d}/00012" for step in range(12)]
    assert ["eta" in line for line in steps] == [False] * 11 + [True]
    evaluated = [line for line in log if re.fullmatch(r"Step \d{5} \| Validation bpb: \d\.\d{6}", line)]
    assert [line[:10] for line in evaluated] == ["Step 00006", "Step 00012"]


@pytest.mark.integration
def test_checkpoints_are_whole_folders_of_which_two_are_kept(whole_run: tuple[list[str], Path]):
    _, folder = whole_run
    assert sorted(path.name for path in folder.iterdir()) == ["step_000010", "step_000012"]
    for path in folder.iterdir():
        verify(path)
        assert {"checkpoint.json", "trainer.json", "rank_0.pt", "rank_1.pt"} <= {p.name for p in path.iterdir()}


@pytest.mark.integration
def test_resume_latest_continues_on_the_same_losses_digit_by_digit(
    environment: dict[str, str], whole_run: tuple[list[str], Path], tmp_path: Path
):
    log, folder = whole_run
    shutil.copytree(folder / "step_000010", tmp_path / "base_checkpoints" / "tiny" / "step_000010")
    resumed = _run(environment, *_twelve_steps(tmp_path), "--resume", "latest", num_processes=2)
    assert resumed.returncode == 0, resumed.stderr
    assert "Continuing from step_000010 at step 10" in resumed.stdout
    continued = _losses(resumed.stdout.splitlines())
    assert list(continued) == ["00010/00012", "00011/00012"]
    assert continued.items() <= _losses(log).items()


@pytest.mark.integration
def test_a_sigterm_ends_the_run_after_the_step_with_a_checkpoint_and_exit_code_143(
    environment: dict[str, str], tmp_path: Path
):
    flags = [*TINY, "--num-iterations", "100000", "--eval-every", "-1", "--checkpoint-root", str(tmp_path)]
    with subprocess.Popen(_command(*flags), env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("step 00002"))
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert process.returncode == 143
    stopped = re.search(r"Stopped after step (\d+) by SIGTERM; add --resume latest to continue", rest)
    assert stopped is not None, rest
    folder = tmp_path / "base_checkpoints" / "tiny" / f"step_{int(stopped[1]) + 1:06d}"
    verify(folder)
    refused = _run(environment, *flags, "--matrix-lr", "0.5", "--resume", "latest")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(f"error: {folder} was written by a run with another config")
    (folder / "trainer.json").write_text("{}")
    damaged = _run(environment, *flags, "--resume-from-step", str(int(stopped[1]) + 1))
    assert damaged.returncode == 1
    assert f"warning: checkpoint not used: {folder / 'trainer.json'}" in damaged.stdout
    assert damaged.stderr.splitlines()[-1].startswith("error: none of the checkpoints to continue from is good")


def test_an_unknown_flag_is_refused_by_the_nearest_name_and_help_lists_them_all(environment: dict[str, str]):
    refused = _run(environment, "--detph", "12")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1] == "error: unknown flag --detph; did you mean --depth?"
    helped = _run(environment, "-h")
    assert helped.returncode == 0
    assert "--moe-capacity-factor" in helped.stdout


# Where checkpoints are


def test_checkpoints_lie_under_the_root_and_the_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NANOCHAT_CACHE", str(tmp_path / "cache"))
    named = RunOptions(checkpoint_root=str(tmp_path), model_tag="mine")
    assert base_train.checkpoint_folder(TrainConfig(), named) == tmp_path / "base_checkpoints" / "mine"
    default = base_train.checkpoint_folder(TrainConfig(), RunOptions())
    assert default == tmp_path / "cache" / "base_checkpoints" / "d20"


def test_a_run_continues_only_when_asked_to_and_from_the_step_that_is_named(tmp_path: Path):
    for step in (70, 140):
        (tmp_path / f"step_{step:06d}").mkdir()
    assert base_train.candidates(tmp_path, RunOptions()) == []
    both = [tmp_path / "step_000140", tmp_path / "step_000070"]
    assert base_train.candidates(tmp_path, RunOptions(resume="latest")) == both
    assert base_train.candidates(tmp_path, RunOptions(resume=70)) == [tmp_path / "step_000070"]
    with pytest.raises(ConfigError, match=r"--resume-from-step 7: there is no checkpoint .*step_000007; found step_"):
        base_train.candidates(tmp_path, RunOptions(resume=7))
