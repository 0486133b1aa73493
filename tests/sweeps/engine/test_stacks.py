"""What stacks say, and that a process answers even where C code keeps the interpreter's lock."""

import os
import subprocess
import sys
import time
from pathlib import Path

from sweeps.engine.stacks import take, unmoved, waits

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
