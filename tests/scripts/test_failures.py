"""What a user reads, and what is left, when training under torchrun fails: real ranks, real signals."""

import contextlib
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.checkpoints.format import verify
from nanochat.data.corpus import prepare_embedded
from tests.helpers.flags import edited

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
TINY = shlex.split(
    "--use-moe --n-experts 4 --expert-topk 2 --expert-hidden-mult 2 --depth 2 --aspect-ratio 32 --head-dim 16 "
    "--max-seq-len 32 --device-batch-size 2 --total-batch-size 128 --core-metric-every -1 --sample-every -1 "
    "--device-type cpu --compile-mode none --model-tag tiny --num-iterations 100000 --eval-every -1"
)


RESUME = "add --resume latest to resume from the newest checkpoint"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a fresh user, whose embedded corpus is ready."""
    cache = tmp_path_factory.mktemp("cache")
    prepare_embedded(cache)
    own = {"NANOCHAT_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    return os.environ | own


class Started:
    """A run on two ranks that has done three steps."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.seen = [next(line for line in process.stdout if line.startswith("step 00002"))]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self.pids = {_rank_of(int(pid)): int(pid) for pid in children}
        assert set(self.pids) == {0, 1}

    def end(self) -> tuple[str, str]:
        """What it still said on stdout and stderr; afterwards none of its processes is left."""
        out, err = self.process.communicate(timeout=300)
        deadline = time.monotonic() + 60  # a process closes its pipes some time before it is gone
        while left := [pid for pid in self.pids.values() if _lives(pid)]:
            assert time.monotonic() < deadline, f"processes {left} outlive their run"
            time.sleep(0.05)
        return out, err


def _rank_of(pid: int) -> int:
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(int(entry[5:]) for entry in environ if entry.startswith(b"RANK="))


def _lives(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.fixture
def started(environment: dict[str, str], tmp_path: Path) -> Iterator[Started]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, str(Path(__file__).parent / "short_limits.py"), *TINY, "--checkpoint-root", str(tmp_path)]
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Started(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _errors(err: str) -> list[str]:
    return [line.removeprefix("error: ") for line in err.splitlines() if line.startswith("error: ")]


# A rank that the others wait for


def test_a_killed_rank_is_named_and_the_others_end(started: Started):
    os.kill(started.pids[1], signal.SIGKILL)
    _, err = started.end()
    (error,) = _errors(err)
    assert re.fullmatch(
        rf"rank 1 \(\S+, process {started.pids[1]}\) is gone: killed, or crashed outside of Python\. "
        rf"The other ranks cannot continue; {RESUME}",
        error,
    )
    assert started.process.returncode == 1
    root_cause = err[err.index("Root Cause") :]
    assert re.search(r"rank +: 1 .*\n +exitcode +: -9", root_cause)


def test_a_stopped_rank_is_named_and_the_others_end(started: Started):
    os.kill(started.pids[1], signal.SIGSTOP)
    _, err = started.end()
    (error,) = _errors(err)
    assert error.startswith(f"rank 1 ({os.uname().nodename}, process {started.pids[1]}) did not answer within 3 s")
    assert error.endswith(f"The others have waited for 6 s; {RESUME}")
    assert started.process.returncode == 1


def test_a_rank_that_hangs_in_python_is_named_with_its_place(started: Started):
    os.kill(started.pids[0], signal.SIGUSR1)
    _, err = started.end()
    (error,) = _errors(err)
    assert re.match(
        rf"rank 0 \(\S+, process {started.pids[0]}\) is in dawdle \(short_limits\.py:\d+\), and the oth", error
    )
    assert started.process.returncode == 1


def test_a_rank_without_memory_says_what_to_lower_and_the_others_say_which_rank_that_was(started: Started):
    os.kill(started.pids[1], signal.SIGUSR2)
    _, err = started.end()
    advice = (
        r"out of memory at a peak of [\d,]+ MiB; lower --device-batch-size \(now 2; the total batch stays\), "
        r"--max-seq-len \(now 32\) or --moe-capacity-factor \(now None, which drops nothing\) \(on rank 1\)"
    )
    own, others = sorted(_errors(err), key=len)
    assert re.fullmatch(advice, own)
    assert re.fullmatch(rf"rank 1 \(\S+, process {started.pids[1]}\) failed: OutOfMemoryError: {advice}", others)
    root_cause = err[err.index("Root Cause") :]
    assert re.search(r"rank +: 1 ", root_cause)
    assert "out of memory at a peak" in root_cause


# Stopping


@pytest.mark.parametrize("how", ["torchrun is terminated", "a rank is terminated", "Ctrl-C", "torchrun is killed"])
def test_all_ranks_end_after_the_same_step_with_a_checkpoint(started: Started, tmp_path: Path, how: str):
    if how == "torchrun is terminated":
        started.process.terminate()
    elif how == "a rank is terminated":
        os.kill(started.pids[1], signal.SIGTERM)
    elif how == "Ctrl-C":
        os.killpg(started.process.pid, signal.SIGINT)  # a terminal sends it to all, and torchrun passes it on
    else:
        started.process.kill()
    out, err = started.end()
    by = "SIGINT" if how == "Ctrl-C" else "SIGTERM"
    stopped = re.search(rf"Stopped after step (\d+) by {by}; add --resume latest to continue", out)
    assert stopped is not None, out + err
    verify(tmp_path / "base_checkpoints" / "tiny" / f"step_{int(stopped[1]) + 1:06d}")
    assert started.process.returncode == (-signal.SIGKILL if how == "torchrun is killed" else 1)
    assert _errors(err) == []


def test_a_second_signal_after_a_while_ends_a_run_at_once(environment: dict[str, str]):
    program = (
        "import time; from scripts.base_train import _StopSignal; stop = _StopSignal(); "
        "print('on', flush=True); time.sleep(30)"
    )
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        process.terminate()
        time.sleep(2.5)
        process.terminate()
        assert process.wait(timeout=30) == -signal.SIGTERM


# Own failures


def _alone(environment: dict[str, str], *flags: str, memory_gib: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if memory_gib is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_gib * 2**30, memory_gib * 2**30))

    command = [sys.executable, "-m", "scripts.base_train", *edited(TINY, *flags)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False, preexec_fn=limit
    )


def test_memory_that_runs_out_is_explained_in_flags(environment: dict[str, str], tmp_path: Path):
    sizes = ["--device-batch-size", "16", "--max-seq-len", "1024", "--total-batch-size", "16384"]
    ran = _alone(environment, *sizes, "--checkpoint-root", str(tmp_path), memory_gib=8)
    assert ran.returncode == 1
    (error,) = _errors(ran.stderr)
    assert re.match(r"out of memory at a peak of [\d,]+ MiB; lower --device-batch-size \(now 16; the total", error)
    assert "--max-seq-len (now 1024)" in error


def _on_two_ranks(environment: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, "-m", "scripts.base_train", "--", *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--depth", "0"], "--depth must be positive, got 0"),
        (edited(TINY, "--resume-from-step", "7"), "--resume-from-step 7: there is no checkpoint "),
        (
            edited(TINY, "--total-batch-size", "64"),
            "a step of 64 tokens has 1 micro-batches of 64 tokens, which do not div",
        ),
        (edited(TINY, "--vocab-size", "100"), "--vocab-size is 100 but the tokenizer of "),
        (edited(TINY, "--depth", "300", "--aspect-ratio", "128"), "2 ranks need at least "),
    ],
)
def test_an_error_of_all_ranks_is_told_once_and_only_one_rank_counts_as_failed(
    environment: dict[str, str], flags: list[str], sentence: str
):
    ran = _on_two_ranks(environment, *flags)
    assert ran.returncode == 1, "torchrun's own, whatever failed"
    (error,) = _errors(ran.stderr)
    assert error.startswith(sentence)
    assert ran.stderr.startswith("error: "), "before all that torchrun says"
    summary = ran.stderr[ran.stderr.index("scripts.base_train FAILED") :]
    assert "<NO_OTHER_FAILURES>" in summary
    assert re.search(r"rank +: 0 .*\n +exitcode +: 2 ", summary)
    assert f"traceback : {error}" in summary
    assert "base_train.py" not in ran.stderr, "no call stack of ours"


def test_help_is_printed_once(environment: dict[str, str]):
    ran = _on_two_ranks(environment, "--help")
    assert ran.returncode == 0
    assert ran.stdout.count("--moe-capacity-factor") == 1


def test_a_run_that_diverges_ends_and_says_where_its_last_good_checkpoint_is(
    environment: dict[str, str], tmp_path: Path
):
    rates = ["--matrix-lr", "1e30", "--embedding-lr", "1e30", "--scalar-lr", "1e30", "--unembedding-lr", "1e30"]
    every = ["--save-every", "1", "--checkpoint-root", str(tmp_path)]
    ran = _alone(environment, *rates, "--warmup-ratio", "0.0", *every)
    assert ran.returncode == 1
    (error,) = _errors(ran.stderr)
    told = re.fullmatch(
        r"steps (\d+) to (\d+) all had a gradient that is not finite; "
        r"the last good checkpoint is that of step (\d+); lower the learning rates",
        error,
    )
    assert told is not None
    first, last, good = map(int, told.groups())
    assert (last - first, good) == (9, first)
    folders = sorted(path.name for path in (tmp_path / "base_checkpoints" / "tiny").iterdir())
    assert folders[-1] == f"step_{good:06d}", "none of the ten was saved, and the good one is still there"
    verify(tmp_path / "base_checkpoints" / "tiny" / folders[-1])
