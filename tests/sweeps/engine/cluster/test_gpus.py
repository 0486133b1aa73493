"""Who can be on a leg's GPUs: a truth table, and how CUDA_VISIBLE_DEVICES is read."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sweeps.engine.cluster.gpus import Holder, Occupancy, chosen_gpus, holders, in_use_by_others, occupancy
from sweeps.engine.processes import launch_processes

OURS, OURS_ELSEWHERE, STRANGER = Holder(0, 11, True), Holder(1, 11, True), Holder(1, 99, False)
IDS = ["GPU-aa11", "GPU-ab22", "GPU-cc33"]


@pytest.mark.parametrize(
    ("found", "to_end", "strangers"),
    [
        ([], (), ()),
        ([OURS], (11,), ()),
        ([OURS, OURS_ELSEWHERE], (11,), ()),
        ([STRANGER], (), (STRANGER,)),
        ([OURS, STRANGER], (), (STRANGER,)),
    ],
)
def test_only_our_leftovers_are_ended_and_none_beside_a_stranger(
    found: list[Holder], to_end: tuple[int, ...], strangers: tuple[Holder, ...]
) -> None:
    assert occupancy(found) == Occupancy(to_end, strangers)


def test_the_refusal_names_gpu_process_and_command() -> None:
    text = in_use_by_others([Holder(3, os.getpid(), False)])
    assert text.startswith(f"GPUs are in use by others: GPU 3 by process {os.getpid()} (")
    assert Path(f"/proc/{os.getpid()}/cmdline").read_bytes().split(b"\0")[0].decode() in text
    assert "CUDA_VISIBLE_DEVICES" in text


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        ("GPU-cc,1", [2, 1]),
        ("GPU-a", []),  # two begin so
        ("0,9,1", [0]),  # CUDA ends at the first that is not there
        ("-1", []),
    ],
)
def test_cuda_visible_devices_chooses_by_number_or_id(setting: str | None, chosen: list[int]) -> None:
    assert chosen_gpus(setting, IDS) == chosen


def test_a_process_is_ours_by_its_experiments_mark() -> None:
    environment = {**os.environ, launch_processes.MARK_VARIABLE: launch_processes.mark_of("/storage/one", "owner")}
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment)
    try:
        deadline = time.monotonic() + 10
        while not launch_processes.is_related(process.pid, launch_processes.mark_of("/storage/one", "another")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not launch_processes.is_related(process.pid, launch_processes.mark_of("/storage/two", "owner"))
        assert not launch_processes.is_related(process.pid, "")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_process_that_computes_is_seen_by_the_driver() -> None:
    program = "import torch; torch.zeros(1, device='cuda'); print('ready', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], **pipes)  # pyright: ignore[reportCallIssue, reportArgumentType]
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert [holder.is_ours for holder in holders(launch_processes.mark_of("/storage/one", "owner"), [0])] == [False]
    finally:
        process.kill()
        process.communicate()
