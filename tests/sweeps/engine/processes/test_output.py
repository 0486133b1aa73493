"""Where the output of ranks and of Ray's threads goes."""

import subprocess
import sys
from pathlib import Path

IN_A_PROCESS = """
import os, subprocess, sys, threading
from pathlib import Path
from sweeps.engine.processes.output import {name}
from sweeps.records.store import Store
print("before")
log = Path(sys.argv[1])
with {name}(Store(str(log.parent)).open_log(log.name)):
    print("main out")
    print("main err", file=sys.stderr)
    thread = threading.Thread(target=lambda: print("thread out"))
    thread.start(); thread.join()
    os.write(2, b"from C\\n")
    subprocess.run(["echo", "child"])
print("after")
"""


def run(name: str, log: Path) -> subprocess.CompletedProcess[str]:
    script = IN_A_PROCESS.format(name=name)
    return subprocess.run([sys.executable, "-c", script, str(log)], capture_output=True, text=True, check=True)


def test_a_ranks_whole_output_goes_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log.txt"
    done = run("into_log", log)
    assert done.stdout == "before\nafter\n"
    assert done.stderr == ""
    assert log.read_text().splitlines() == ["main out", "main err", "thread out", "from C", "child"]


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("attempt 0\n")
    run("into_log", log)
    assert log.read_text().startswith("attempt 0\nmain out\n")


def test_only_the_main_thread_speaks_to_the_user_while_ray_runs(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    done = run("others_into_log", log)
    assert done.stdout == "before\nmain out\nafter\n"
    assert done.stderr == "main err\n"
    assert log.read_text().splitlines() == ["thread out", "from C", "child"]


def test_what_a_full_disk_rejects_of_a_log_is_lost_and_ends_nothing() -> None:
    script = (
        "import os, sys\n"
        "from sweeps.engine.processes.output import into_log\n"
        "with into_log(os.open('/dev/full', os.O_WRONLY)):\n"
        "    for _ in range(3):\n"
        "        print('x' * 10_000, flush=True)\n"
        "        print('y', file=sys.stderr)\n"
        "print('here')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "here\n", "")
