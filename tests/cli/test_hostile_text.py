"""What somebody else has written into an experiment is shown and does nothing: not in a terminal, not in a report."""

import dataclasses
import os
import pty
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.engine.watching.stored_events import StoredEvents
from sweeps.records.documents import AttemptError, utc_now
from sweeps.records.experiment import Experiment

EVIL = "\x1b[2J\x1b]0;owned\x07\u202e|<b>`x`\x9b31m\r"


@pytest.fixture
def hostile(make_experiment: Callable[..., Experiment]) -> Experiment:
    """An experiment whose first leg failed, with texts that would act."""
    experiment = make_experiment()
    record = experiment.trials()[0]
    attempt = record.start_attempt(num_workers=2)
    error = AttemptError(type="ValueError", message=EVIL, traceback=EVIL)
    record.update_attempt(
        dataclasses.replace(attempt, end="failed", ended_utc=utc_now(), host=EVIL, error=error, git_commit=EVIL)
    )
    descriptor = record.open_log()
    assert descriptor is not None
    with os.fdopen(descriptor, "w") as log:
        log.write(f"line\n{EVIL}\n")
    return experiment


@pytest.mark.parametrize("words", [["ls"], ["status"], ["status", "--json"], ["report"], ["ls", "--json"]])
def test_no_verb_prints_what_a_terminal_would_obey(program: Callable, hostile: Experiment, words: list[str]) -> None:
    root, _, name = hostile.uri.rpartition("/")
    place = ["--storage", root] if words[0] == "ls" else [hostile.uri]
    done = program(*words[:1], *place, *words[1:])
    assert done.code in (0, 5), done.err
    assert not set("\x1b\x07\u202e\x9b\r") & set(done.out + done.err)
    assert name in done.out


def test_no_file_of_a_report_holds_it_either(program: Callable, hostile: Experiment) -> None:
    assert program("report", hostile.uri).code == 0
    files = [path for path in Path(hostile.uri, "report").iterdir() if path.suffix in (".md", ".html", ".svg")]
    assert len(files) >= 2
    for path in files:
        assert not set("\x1b\x07\u202e\x9b\r") & set(path.read_text(encoding="utf-8")), path.name


def test_a_log_is_shown_on_a_terminal_without_controls_and_copied_elsewhere_as_it_is(hostile: Experiment) -> None:
    command = [sys.executable, "-m", "cli.main", "logs", hostile.uri]
    assert subprocess.run(command, capture_output=True).stdout.decode() == f"line\n{EVIL}\n"
    controller, terminal = pty.openpty()
    subprocess.run(command, stdout=terminal, stderr=terminal, check=True)
    os.close(terminal)
    shown = os.read(controller, 2**16).decode()
    os.close(controller)
    assert "line" in shown
    assert "\\u001b[2J" in shown
    assert not set("\x1b\x07\u202e\x9b") & set(shown)


def test_a_huge_line_of_a_log_costs_neither_memory_nor_the_screen(hostile: Experiment) -> None:
    record = hostile.trials()[0]
    assert record.log_path is not None
    with record.log_path.open("r+b") as log:
        log.truncate(400 * 2**20)  # one line, and no space on the disk
    watch = StoredEvents(hostile)
    watch._seen[record.name].num_ended = 0  # pyright: ignore[reportPrivateUsage] - as if the leg ended just now
    tracemalloc.start()
    try:
        (told,) = [str(event) for event in watch.poll() if type(event).__name__ == "LegFailed"]
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()
    assert len(told) < 2000
