"""What a person sees of a running experiment: lines if there is no terminal, a table in a real one."""

import dataclasses
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.live import changes, telling
from sweeps.engine.watching.events import (
    ExperimentEnded,
    ExperimentStarted,
    LegAdvanced,
    LegCompleted,
    LegFailed,
    LegStarted,
    Place,
    Stopping,
    Warned,
)
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.results.measures.progress import ProgressReader

Make = Callable[..., Experiment]
MakeRow = Callable[..., StepRow]
GOLDEN = Path(__file__).parent / "golden"
PROGRAM = Path(sys.executable).parent / "nanochat-sweep"
STATIC, BF16 = Place("static-b1", 1, 4), Place("bf16-b1", 4, 4)
RUN = [
    ExperimentStarted(
        id="toy", uri="/data/toy", num_trials=4, num_completed=0, num_workers=2, where="on 2 CPU workers"
    ),
    LegStarted(at=STATIC, attempt=0),
    LegAdvanced(at=STATIC, step=10, num_steps=40, loss=9.1, tok_per_sec=5120.0),
    Warned(message="the disk is nearly full"),
    LegCompleted(at=STATIC, num_steps=40, loss=6.1, tok_per_sec=5120.0, total_time_min=0.1),
    LegFailed(at=BF16, error="ValueError: no", log=Path("/data/toy/log.txt"), tail=("Traceback", "ValueError: no")),
    Stopping(reason="SIGINT", grace_s=60.0),
    ExperimentEnded(
        id="toy", typed="toy", num_trials=4, num_completed=1, failed=("bf16-b1",), unfinished=("none_cap1p25-b1",)
    ),
]


def train(experiment: Experiment, trial: str, rows: list[StepRow], end: str | None = None) -> None:
    """A leg that has started, said what it is, and stored some steps."""
    record = experiment.trial(trial)
    attempt = dataclasses.replace(record.start_attempt(num_workers=2), facts={"device_name": "toy"}, first_step=0)
    record.update_attempt(dataclasses.replace(attempt, end=end))  # type: ignore[arg-type]
    record.append_rows(0, rows)


@contextmanager
def in_a_terminal(
    *command: str | Path, columns: int = 80, lines: int = 24
) -> Iterator[tuple[int, Callable[[], bytes]]]:
    """A program in its own terminal: its pid, and a function that reads what it has written so far."""
    pid, controller = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        os.environ.pop("NO_COLOR", None)
        os.environ.update(TERM="xterm-256color", CUDA_VISIBLE_DEVICES="")
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in a terminal, also where a script had it ignored
        os.execv(command[0], [str(word) for word in command])
    written = b""

    def read() -> bytes:
        nonlocal written
        while select.select([controller], [], [], 0.05)[0]:
            try:
                written += os.read(controller, 2**16)
            except OSError:  # the program has ended
                break
        return written.replace(b"\r\n", b"\n")

    try:
        yield pid, read
    finally:
        os.close(controller)


def read_until(read: Callable[[], bytes], text: bytes, timeout_s: float = 60, times: int = 1) -> bytes:
    deadline = time.monotonic() + timeout_s
    while (data := read()).count(text) < times:
        assert time.monotonic() < deadline, f"{text!r} did not come: {data!r}"
        time.sleep(0.05)
    return data


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_without_a_terminal_every_event_is_its_own_plain_line(
    make_experiment: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    with telling(make_experiment()) as tell:
        for event in RUN:
            tell(event)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (GOLDEN / "live_plain.txt").read_text()


def test_no_color_means_plain_lines_in_a_terminal_too(
    make_experiment: Make, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_experiment(id="mine"), "static-b1", [make_row(s) for s in range(10)])
    uri = make_experiment(id="other").uri
    with in_a_terminal("/usr/bin/env", "NO_COLOR=1", PROGRAM, "status", uri, "--watch") as (pid, read):
        data = read_until(read, b"trials completed")
        assert exit_code(pid) == 0
    assert b"\x1b" not in data


def test_changes_name_what_is_new(make_experiment: Make, make_row: MakeRow, complete: Callable[..., None]) -> None:
    experiment = make_experiment(id="mine")
    experiment.lock()
    complete(experiment, "static-b1")
    reader = ProgressReader(experiment)
    before = reader.read()
    assert changes(None, before) == [
        "[1/4] static: completed, step 40/40, loss 6.1000, 5,120 tok/s",
        "mine: running, 1 of 4 trials completed",
    ]
    experiment.trial("bf16-b1").start_attempt(num_workers=2)
    starting = reader.read()
    assert changes(before, starting) == ["[4/4] bf16: starting"]
    train(experiment, "static_cap1p25-b1", [make_row(s) for s in range(10)], end="failed")
    experiment.unlock()
    assert changes(starting, reader.read()) == [
        "[2/4] static_cap1p25: failed, step 10/40, loss 9.1000, 5,120 tok/s",
        "[4/4] bf16: interrupted",
        "mine: interrupted, 1 of 4 trials completed",
    ]


def test_watching_without_a_terminal_ends_with_the_run(
    program: Callable, make_experiment: Make, make_row: MakeRow, complete: Callable[..., None]
) -> None:
    experiment = make_experiment(id="mine")
    experiment.lock()

    def run() -> None:
        time.sleep(1.5)
        complete(experiment, "static-b1")
        time.sleep(1.5)
        experiment.unlock()

    threading.Thread(target=run, daemon=True).start()
    done = program("status", "mine", "--watch")
    assert (done.code, done.err) == (0, "")
    first, *_, last = lines = done.out.splitlines()
    assert first == "mine: running, 0 of 4 trials completed"
    assert "[1/4] static: completed, step 40/40, loss 6.1000, 5,120 tok/s" in lines
    assert last == "mine: interrupted, 1 of 4 trials completed"


def test_watching_and_json_exclude_each_other(program: Callable, make_experiment: Make) -> None:
    make_experiment(id="mine")
    done = program("status", "mine", "--watch", "--json")
    assert done.code == 2
    assert "exclude each other" in done.err


def test_in_a_terminal_a_table_is_painted_over_until_the_run_ends(
    make_experiment: Make, make_row: MakeRow, terminal: type
) -> None:
    experiment = make_experiment(id="mine")
    experiment.lock()
    with in_a_terminal(PROGRAM, "status", experiment.uri, "--watch") as (pid, read):
        read_until(read, b"0 of 4")
        train(experiment, "static-b1", [make_row(s) for s in range(10)])
        data = read_until(read, b"10/40")
        assert terminal().feed(data).shown() == (GOLDEN / "live_terminal.txt").read_text().splitlines()
        experiment.unlock()
        data = read_until(read, b"interrupted")
        assert exit_code(pid) == 0
    shown = terminal().feed(data).shown()
    assert shown[0] == "mine: interrupted"
    assert len(shown) == 7


def test_ctrl_c_ends_the_watching_and_leaves_the_terminal_as_it_was(make_experiment: Make, terminal: type) -> None:
    experiment = make_experiment(id="mine")
    experiment.lock()
    with in_a_terminal(
        "/bin/sh", "-c", f"stty -a; {PROGRAM} status {experiment.uri} --watch; echo code $?; stty -a"
    ) as (
        pid,
        read,
    ):
        read_until(read, b"0 of 4")
        time.sleep(0.5)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGINT)
        read_until(read, b"code 130")
        exit_code(pid)
        data = read_until(read, b"-extproc", times=2)  # what the terminal still holds comes after the shell's end
    before, after = re.findall(rb"speed [^\x1b]*?-extproc", data.replace(b"\n", b" "))
    assert before == after
    assert b"\x1b[?" not in data  # no mode was set, the cursor never hidden
    assert b"Traceback" not in data
    experiment.unlock()


def test_a_run_in_a_terminal_shows_events_above_and_its_end_below_the_table(
    make_experiment: Make, make_row: MakeRow, terminal: type, tmp_path: Path
) -> None:
    experiment = make_experiment(id="toy")
    train(experiment, "static-b1", [make_row(s) for s in range(40)])
    script = tmp_path / "run.py"
    script.write_text(
        "import importlib.util, sys, time\n"
        "from cli.live import telling\n"
        "from sweeps.records.experiment import Experiment\n"
        f"spec = importlib.util.spec_from_file_location('events_of_a_run', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "with telling(Experiment.open(sys.argv[1])) as tell:\n"
        "    for event in module.RUN:\n"
        "        tell(event)\n"
        "        time.sleep(0.3)\n"
    )
    with in_a_terminal(sys.executable, script, experiment.uri, columns=130) as (pid, read):
        read_until(read, b"to do: ")
        assert exit_code(pid) == 0
        data = read()
    assert terminal(columns=130).feed(data).shown() == (GOLDEN / "live_run_terminal.txt").read_text().splitlines()


def test_nothing_heavy_is_imported_to_watch(make_experiment: Make) -> None:
    script = (
        "import sys; from cli.main import app; app(['status', sys.argv[1], '--watch'], standalone_mode=False); "
        "print([name for name in ('torch', 'ray', 'pyarrow', 'numpy', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, make_experiment().uri], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
