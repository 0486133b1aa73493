"""What outlives a launcher is found by its mark and ended; nobody else is touched."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sweeps.engine.processes import launch_processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
LAUNCHER = """
import os, subprocess, sys, time
from sweeps.engine.processes import launch_processes
mark = sys.argv[1]
launch_processes.start_watchdog(mark)
os.environ[launch_processes.MARK_VARIABLE] = mark
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("ready", flush=True)
time.sleep(60)
"""


def sleeper(mark: str | None) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, launch_processes.MARK_VARIABLE: mark} if mark else dict(os.environ)
    return subprocess.Popen(SLEEP, env=environment)


def eventually(condition: Callable[[], bool], timeout_s: float = 60) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_members_are_found_by_mark_and_ended_alone(tmp_path: Path) -> None:
    mark, other = (launch_processes.mark_of(str(tmp_path), owner) for owner in ("owner1", "owner2"))
    mine, others, unmarked = sleeper(mark), sleeper(other), sleeper(None)
    try:
        assert eventually(lambda: launch_processes.members(mark) == [mine.pid])
        assert launch_processes.is_marked(mine.pid)
        assert not launch_processes.is_marked(unmarked.pid)
        assert launch_processes.end(lambda pid: launch_processes.is_member(pid, mark))
        assert mine.wait(timeout=30) == -signal.SIGKILL
        assert others.poll() is None
        assert unmarked.poll() is None
    finally:
        for process in (mine, others, unmarked):
            process.kill()
            process.wait()


def test_leftovers_are_those_of_the_same_folder_and_another_launch(tmp_path: Path) -> None:
    own, old = (launch_processes.mark_of(str(tmp_path / "exp"), owner) for owner in ("new", "old"))
    elsewhere = launch_processes.mark_of(str(tmp_path / "other"), "old")
    processes = [sleeper(mark) for mark in (own, old, elsewhere)]
    try:
        assert eventually(lambda: launch_processes.leftovers(str(tmp_path / "exp"), own) == [processes[1].pid])
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_killed_launchers_processes_are_ended_by_the_watchdog(tmp_path: Path) -> None:
    mark = launch_processes.mark_of(str(tmp_path), "owner")
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, mark], stdout=subprocess.PIPE)
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == b"ready\n"
    assert eventually(lambda: len(launch_processes.members(mark)) == 1)
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    assert eventually(lambda: launch_processes.members(mark) == [])


def test_ending_what_does_not_end_gives_up_in_time() -> None:
    looks = iter([True, False] * 1000)  # what was to be killed is another process by the second look
    process = subprocess.Popen(SLEEP)
    try:
        assert not launch_processes.end(lambda pid: pid == process.pid and next(looks), timeout_s=0.2)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
