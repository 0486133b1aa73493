"""A rank answers even where C code keeps the interpreter's lock, and no other process ever gets its signal."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sweeps.engine.processes import launch_processes
from sweeps.engine.processes.scratch import prefix_of
from sweeps.engine.ranks.stacks import RankPlace, end_leg, end_rank, places, stacks_folder, take
from sweeps.records.owner import process_started
from sweeps.records.store import Store

HANGS = """
import ctypes
from sweeps.engine.ranks.stacks import answer_when_asked
answer_when_asked()
print("ready", flush=True)
while True:  # a signal ends a sleep
    ctypes.PyDLL(None).sleep(60)
"""
WAITS = "print('ready', flush=True); input()"
URI = "/storage/one"
MARK = launch_processes.mark_of(URI, "owner")
OF_LAUNCH = {launch_processes.MARK_VARIABLE: MARK}

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs, which are ready when it returns; ends them all."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(program: str = WAITS, **environment: str) -> "subprocess.Popen[bytes]":
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", program]
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdin=pipe, stdout=pipe)
        processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def place_of(process: "subprocess.Popen[bytes]", **changes: Any) -> RankPlace:
    started = process_started(process.pid)
    return replace(RankPlace(rank=0, host="here", node_id="n", pid=process.pid, started=started), **changes)


def test_a_process_that_hangs_in_c_code_with_the_interpreters_lock_answers(start: Start) -> None:
    place = place_of(start(HANGS, **OF_LAUNCH))
    deadline = time.monotonic() + 60
    for _ in range(2):  # an answer is not mixed up with the one before
        while (answer := take(place, MARK)).count('File "<string>", line 7 in <module>') != 1:
            assert time.monotonic() < deadline, answer


def test_a_process_that_is_gone_is_said_to_be() -> None:
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(pid, 0)
    assert "cannot be asked" in take(RankPlace(rank=0, host="h", node_id="n", pid=pid, started=1), MARK)


def test_no_signal_reaches_a_process_that_is_not_the_rank(start: Start) -> None:
    rank, unmarked, other = start(**OF_LAUNCH), start(), start(NANOCHAT_SWEEP_FAMILY="0123456789abcdef.other")
    forged = [
        place_of(unmarked),
        place_of(other),
        place_of(rank, started=(process_started(rank.pid) or 0) - 1),  # the number is used again
        place_of(rank, started=None),  # as older experiments have it
        place_of(unmarked, pid=-unmarked.pid),
        place_of(unmarked, pid=0),
        place_of(unmarked, pid=-1),
        place_of(unmarked, pid=2**70),
    ]
    for place in forged:
        assert "cannot be asked" in take(place, MARK)
        end_rank(place, MARK)
        end_leg(MARK, launch_processes.leg_mark(URI, "static-b1"), [place])
    end_rank(place_of(rank), "")  # outside of a launch
    time.sleep(0.2)
    assert [process.poll() for process in (rank, unmarked, other)] == [None] * 3
    end_rank(place_of(rank), MARK)
    assert rank.wait(timeout=60) == -signal.SIGKILL


def test_a_rank_that_answers_nothing_gets_no_signal_that_would_end_it(start: Start) -> None:
    rank = start(**OF_LAUNCH)
    assert "cannot be asked" in take(place_of(rank), MARK)
    assert rank.poll() is None


def test_the_end_of_a_leg_ends_its_ranks_what_they_started_and_their_files(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    leg = launch_processes.leg_mark(URI, "static-b1")
    rank, child, other = start(**OF_LAUNCH), start(**OF_LAUNCH, NANOCHAT_SWEEP_LEG=leg), start(**OF_LAUNCH)
    place = place_of(rank)
    downloaded, others = (tmp_path / f"{prefix_of(p.pid, process_started(p.pid))}x" for p in (rank, other))
    for folder in (downloaded, others):
        folder.mkdir()
        (folder / "rank_0.pt").write_text("a checkpoint")
    end_leg(MARK, leg, [place])
    assert rank.wait(timeout=60) == child.wait(timeout=10) == -signal.SIGKILL
    assert other.poll() is None
    assert not downloaded.exists()
    assert others.exists()


def test_a_forged_record_names_no_file_and_a_damaged_one_no_process(tmp_path: Path) -> None:
    store, victim = Store(str(tmp_path / "exp")), tmp_path / "precious"
    victim.write_text("kept")
    good = RankPlace(rank=1, host="h", node_id="n", pid=4711, started=7)
    forged = asdict(good) | {"stacks_file": str(victim), "rank": 99}
    damaged = [
        *({**forged, name: value} for name in ("pid", "started") for value in (-1, 0.5, "7", 2**70, [], True)),
        *({**forged, "pid": value} for value in (0, None)),
        {**forged, "landmarks": {"collectives": "x"}},
        {"pid": 1},
    ]
    for rank, values in enumerate([forged, *damaged]):
        store.write(f"{stacks_folder('t')}/a000-r{rank:03d}.json", json.dumps(values).encode())
    for name in ("a000-r900.json", "a000-r901.json", "a000-rx.json"):
        store.write(f"{stacks_folder('t')}/{name}", b"{" if name != "a000-r901.json" else b"[1]")
    found = places(store, "t", 0)
    assert found == [replace(good, rank=0)]  # a rank is what its file's name says
    end_leg(MARK, launch_processes.leg_mark(URI, "t"), found)
    assert victim.read_text() == "kept"
