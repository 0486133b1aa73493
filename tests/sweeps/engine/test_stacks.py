"""What stacks say, and that a process answers even where C code keeps the interpreter's lock."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sweeps.engine import family
from sweeps.engine.scratch import prefix
from sweeps.engine.stacks import RankPlace, end_leg, take, unmoved, waits

WAITING = """Thread 0x01 (most recent call first):
  File "/x/torch/distributed/distributed_c10d.py", line 2 in all_gather
  File "/x/nanochat/dist.py", line 7 in all_gather_floats
  File "/x/sweeps/engine/worker.py", line 5 in run_rank
  File "/x/ray/train/v2/util.py", line 9 in train_fn

Current thread 0x02 (most recent call first):
  File "/x/threading.py", line 3 in wait
"""
STUCK = """Thread 0x03 (most recent call first):
  File "/x/ray/train/v2/thing.py", line 9 in poll

Thread 0x01 (most recent call first):
  File "/x/nanochat/feed.py", line 2 in next_batch
  File "/x/sweeps/engine/worker.py", line 5 in run_rank
  File "/x/ray/train/v2/util.py", line 9 in train_fn
"""
SETTLES = """Thread 0x01 (most recent call first):
  File "/x/threading.py", line 3 in wait
  File "/x/concurrent/futures/_base.py", line 5 in result
  File "/x/nanochat/saving.py", line 7 in settle
  File "/x/nanochat/train.py", line 9 in train
  File "/x/sweeps/engine/worker.py", line 5 in run_rank
"""
WRITER_WAITS = """
Thread 0x02 (most recent call first):
  File "/x/torch/distributed/distributed_c10d.py", line 2 in all_gather_object
  File "/x/nanochat/dist.py", line 7 in all_gather_object
  File "/x/nanochat/checkpoint.py", line 7 in together
  File "/x/sweeps/engine/worker.py", line 9 in store_checkpoint
"""
WRITER_WRITES = """
Thread 0x02 (most recent call first):
  File "/x/torch/serialization.py", line 2 in save
  File "/x/torch/distributed/checkpoint/filesystem.py", line 7 in _write_item
  File "/x/torch/distributed/checkpoint/filesystem.py", line 8 in _write_files_from_queue
  File "/x/nanochat/checkpoint.py", line 7 in write_data
  File "/x/torch/distributed/checkpoint/utils.py", line 8 in all_reduce
  File "/x/sweeps/engine/worker.py", line 9 in store_checkpoint
"""
PATIENT_BEFORE_SAVE = """Thread 0x01 (most recent call first):
  File "/x/sweeps/engine/patience.py", line 3 in patiently
  File "/x/sweeps/engine/rank.py", line 5 in before_save
  File "/x/nanochat/saving.py", line 7 in save
  File "/x/sweeps/engine/worker.py", line 5 in run_rank
"""
PROGRAM = """
import ctypes, faulthandler, signal, sys
faulthandler.register(signal.SIGUSR2, file=open(sys.argv[1], "w"), all_threads=True)
print("ready", flush=True)
ctypes.PyDLL(None).sleep(60)
"""


def test_the_thread_that_trains_decides_whether_a_rank_waits() -> None:
    assert waits(WAITING)
    assert not waits(STUCK)


def test_the_rank_that_the_others_wait_for_did_not_move() -> None:
    assert unmoved({0: WAITING, 1: STUCK, 2: WAITING}) == [1]
    assert unmoved({0: WAITING, 1: WAITING}) == []
    assert unmoved({0: STUCK, 1: STUCK}) == []
    assert unmoved({0: STUCK}) == [0]


def test_where_training_waits_for_its_checkpoint_the_thread_that_writes_it_decides() -> None:
    assert waits(SETTLES + WRITER_WAITS)
    assert waits(SETTLES)
    assert not waits(SETTLES + WRITER_WRITES)
    assert unmoved({0: SETTLES + WRITER_WAITS, 1: SETTLES + WRITER_WRITES}) == [1]
    assert unmoved({0: SETTLES + WRITER_WAITS, 1: WAITING, 2: STUCK}) == [2]


def test_what_is_done_before_a_save_is_no_waiting_for_one() -> None:
    assert not waits(PATIENT_BEFORE_SAVE)


def test_a_process_that_hangs_in_c_code_with_the_interpreters_lock_answers(tmp_path: Path) -> None:
    file = tmp_path / "stacks"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(file)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while 'File "<string>", line 5 in <module>' not in take(process.pid, str(file)):
            assert time.monotonic() < deadline
    finally:
        process.kill()
        process.communicate()


def test_a_process_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(pid, 0)
    assert "cannot be asked" in take(pid, str(tmp_path / "none"))


def test_the_end_of_a_leg_ends_its_ranks_what_they_started_and_their_files(tmp_path: Path) -> None:
    mark = family.leg_mark("/storage/one", "static-b1")
    launch = {**os.environ, family.MARK_VARIABLE: family.mark_of("/storage/one", "owner")}
    rank = sleeper(launch)
    child, other = sleeper({**launch, family.LEG_VARIABLE: mark}), sleeper(launch)
    file = tmp_path / "stacks"
    file.write_text("")
    downloaded, others = (tmp_path / f"{prefix(pid)}x" for pid in (rank.pid, other.pid))
    for folder in (downloaded, others):
        folder.mkdir()
        (folder / "rank_0.pt").write_text("a checkpoint")
    place = RankPlace(rank=0, host="here", node_id="n", pid=rank.pid, stacks_file=str(file))
    try:
        end_leg(mark, [place])
        assert rank.wait(timeout=60) == child.wait(timeout=10) == -signal.SIGKILL
        assert other.poll() is None
        assert not file.exists()
        assert not downloaded.exists()
        assert others.exists()
    finally:
        for process in (rank, child, other):
            process.kill()
            process.communicate()


def sleeper(environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    program = "print('ready', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, **pipes)  # pyright: ignore
    assert process.stdout is not None
    process.stdout.readline()
    return process
