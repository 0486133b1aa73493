"""Kills a process at each of its renames, flushes, links, deletions and new folders, one kill a run.

strace stops the process right before such a call and sends SIGKILL instead of letting it happen. The process is a fork
of this one, so that what it needs is imported already; it waits until strace holds it, and then acts.

strace counts each kind of call by itself. A first run survives and shows the kinds; then run n of a kind dies before
the n-th such call of any thread, until a run survives.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NoReturn

import pytest

CALLS = "rename,renameat,renameat2,fsync,fdatasync,unlink,unlinkat,link,linkat,mkdir,mkdirat,rmdir"
ATTACH_S = 30.0
_PR_SET_PTRACER, _ANY_PROCESS = 0x59616D61, ctypes.c_ulong(-1)

Say = Callable[[str], None]
Act = Callable[[Path, Say], None]  # works below the folder, and says what a caller may rely on from then on
Check = Callable[[Path, list[str]], None]  # raises AssertionError if the folder does not hold what was said


@dataclass(frozen=True)
class _Run:
    was_killed: bool
    said: list[str]
    calls: list[str]  # as strace saw them, the last one unfinished after a kill


def kill_everywhere(act: Act, check: Check, scratch: Path, prepare: Callable[[Path], None] | None = None) -> int:
    """Runs `act` in a fresh folder as often as it has places to be killed at, and `check` after each; their number.

    Raises what `check` raises, with the place. Without strace the test is skipped, except where CI says that it is
    there.
    """
    if sys.platform != "linux" or shutil.which("strace") is None:
        _cannot("there is no strace")
    trial = _Trial(act, check, scratch, prepare)
    kinds = {call.split("(")[0].split()[-1] for call in trial.run(None).calls}
    assert kinds, "nothing is changed on the disk"
    num_kills = 0
    for kind in sorted(kinds):
        num_kills += next(when for when in count() if not trial.run((kind, when + 1)).was_killed)
    return num_kills


@dataclass(frozen=True)
class _Trial:
    act: Act
    check: Check
    scratch: Path
    prepare: Callable[[Path], None] | None

    def run(self, kill: tuple[str, int] | None) -> _Run:
        """A run in a fresh folder that dies before the n-th call of a kind, or survives; what it left is checked."""
        folder = self.scratch / "run"
        folder.mkdir(parents=True)
        if self.prepare is not None:
            self.prepare(folder)
        run = _run_until(kill, self.act, folder, self.scratch / "strace.txt")
        try:
            self.check(folder, run.said)
        except AssertionError as error:
            error.add_note(f"killed before {kill}, having said {run.said}: {run.calls[-1] if run.calls else '-'}")
            raise
        shutil.rmtree(folder)
        return run


def _cannot(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"kill points cannot be tried: {reason}")
    pytest.skip(reason)


def _run_until(kill: tuple[str, int] | None, act: Act, folder: Path, trace: Path) -> _Run:
    go_read, go_write = os.pipe()
    said_read, said_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_victim(act, folder, go_read, said_write)
    os.close(said_write)
    try:
        # Not with --seccomp-bpf: nothing is injected then, without a word.
        inject = [] if kill is None else ["-e", f"inject={kill[0]}:signal=SIGKILL:when={kill[1]}"]
        command = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={CALLS}", *inject, "-p", str(pid)]
        strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        held = _wait_until_held(pid, strace)
        os.write(go_write, b"1" if held else b"0")
        _, status = os.waitpid(pid, 0)
        errors = strace.communicate()[1]
        with os.fdopen(said_read) as pipe:
            said = pipe.read().splitlines()
    finally:
        for end in (go_read, go_write):
            os.close(end)
    if not held:
        _cannot(f"strace cannot hold a process: {errors.strip()}")
    was_killed = os.WIFSIGNALED(status)
    assert was_killed or os.WEXITSTATUS(status) == 0, f"the process failed by itself: {status}"
    calls = [line for line in trace.read_text().splitlines() if "(" in line]
    return _Run(was_killed, said, calls)


def _wait_until_held(pid: int, strace: "subprocess.Popen[str]") -> bool:
    deadline = time.monotonic() + ATTACH_S
    while time.monotonic() < deadline and strace.poll() is None:
        if "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text():
            return True
        time.sleep(0.001)
    return False


def _become_victim(act: Act, folder: Path, go: int, said: int) -> None:
    """The forked process: never returns."""
    code = 70
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY_PROCESS, 0, 0, 0)  # Yama lets only parents trace otherwise
        if os.read(go, 1) == b"1":
            act(folder, lambda text: _write_line(said, text))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _write_line(descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode() + b"\n")
