"""launch and restore as a user meets them where they are rejected: one sentence, the right exit code, nothing left."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.engine.cluster import private
from sweeps.records.experiment import Experiment
from sweeps.records.owner import Owner

PROGRAM = Path(sys.executable).parent / "nanochat-sweep"


def call(storage: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"CUDA_VISIBLE_DEVICES": ""} | environment
    command = [str(PROGRAM), *words, "--storage", str(storage)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean)


def test_a_full_size_launch_without_gpus_is_refused_with_the_two_ways_out(tmp_path: Path) -> None:
    done = call(tmp_path, "launch", "capacity")
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith("error: sweep capacity wants 8 GPUs; this machine has none")
    assert "--preset tiny" in done.stderr
    assert "--num-workers" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("launch", "smoke", "--legs", "exat"), "there is no leg 'exat'; did you mean exact?"),
        (("launch", "smoke", "--num-workers", "3"), "leg exact: "),
        (
            ("launch", "smoke", "--set", "model.dept=3"),
            "--set: unknown config field 'model.dept'; did you mean model.depth?",
        ),
        (("launch", "smoke", "--name", "a/b"), "experiment 'a/b' cannot name a folder"),
        (("launch", "smoke", "--detached"), "No such option: --detached"),
        (("launch", "smoke", "--keep-checkpoints", "2"), "--keep-checkpoints is none, last or all, got '2'"),
        (("launch", "smoke", "--commit"), "--commit needs --report-to DIR"),
        (("launch", "smoke", "--continue-from", "nothing"), "no experiment 'nothing'"),
        (("launch", "smoke", "--address", "ray://host:10001"), "--address ray://host:10001 is a Ray client's"),
        (("restore", "nothing"), "no experiment 'nothing'"),
    ],
)
def test_a_launch_that_cannot_be_is_one_sentence_and_leaves_nothing(
    words: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    done = call(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {sentence}")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_storage_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call(tmp_path / "file", "launch", "smoke")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: storage {tmp_path / 'file'} cannot be written")


def test_a_second_launch_under_one_name_is_refused(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    make_experiment(id="mine")
    done = call(tmp_path / "storage", "launch", "smoke", "--name", "mine")
    assert done.returncode == 2
    assert f"restore {tmp_path / 'storage' / 'mine'}`" in done.stderr


def test_a_restore_of_what_somebody_runs_is_told_to_try_later(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = make_experiment(id="mine")
    experiment.lock(Owner.this_process())
    try:
        done = call(tmp_path / "storage", "restore", "mine")
    finally:
        experiment.unlock()
    assert done.returncode == 75
    assert f"process {os.getpid()}" in done.stderr


def test_a_restore_with_workers_that_do_not_divide_the_batch_is_refused(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    make_experiment(id="mine")
    done = call(tmp_path / "storage", "restore", "mine", "--num-workers", "3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --num-workers 3: ")


def test_a_machine_without_a_place_for_rays_sockets_is_refused_before_anything_is_created(
    tmp_path: Path, program: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On most machines /tmp is such a place, whatever TMPDIR says."""
    monkeypatch.setattr(private, "MAX_SOCKET_BYTES", 20)
    done = program("launch", "smoke", "--address", "local")
    assert done.code == 2
    assert done.err.startswith("error: no folder for Ray's session: ")
    assert done.err.endswith("set TMPDIR to a short path of yours\n")
    assert not (tmp_path / "storage").exists()
