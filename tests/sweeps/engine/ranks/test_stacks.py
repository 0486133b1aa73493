"""A process answers even where C code keeps the interpreter's lock."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sweeps.engine.processes import launch_processes
from sweeps.engine.processes.scratch import prefix
from sweeps.engine.ranks.stacks import RankPlace, end_leg, take

PROGRAM = """
import ctypes, faulthandler, signal, sys
faulthandler.register(signal.SIGUSR2, file=open(sys.argv[1], "w"), all_threads=True)
print("ready", flush=True)
ctypes.PyDLL(None).sleep(60)
"""


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
    mark = launch_processes.leg_mark("/storage/one", "static-b1")
    launch = {**os.environ, launch_processes.MARK_VARIABLE: launch_processes.mark_of("/storage/one", "owner")}
    rank = sleeper(launch)
    child, other = sleeper({**launch, launch_processes.LEG_VARIABLE: mark}), sleeper(launch)
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
