"""`logs` prints the bytes of the right log, and follows a running leg to its end."""

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.documents import AttemptEnd
from sweeps.records.experiment import Experiment

Make = Callable[..., Experiment]


def begin(experiment: Experiment, trial: str, text: bytes, end: AttemptEnd | None = None) -> Path:
    """A leg that has started and written something."""
    record = experiment.trial(trial)
    attempt = record.start_attempt(num_workers=2)
    record.update_attempt(dataclasses.replace(attempt, end=end))
    assert record.log_path is not None
    record.log_path.write_bytes(text)
    return record.log_path


def test_without_a_leg_it_is_the_one_that_started_last(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    begin(experiment, "none_cap1p25-b1", b"third\n", end="completed")
    begin(experiment, "static-b1", b"first, restored\n", end="stopped")
    done = program("logs", "mine")
    assert (done.code, done.out, done.err) == (0, "first, restored\n", "")


@pytest.mark.parametrize("name", ["none_cap1p25", "none_cap1p25-b1", "none"])
def test_a_leg_is_named_by_trial_leg_or_a_beginning(name: str, program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    begin(experiment, "none_cap1p25-b1", b"this\n")
    begin(experiment, "static-b1", b"that\n")
    assert program("logs", "mine", name).out == "this\n"


def test_a_legs_name_means_its_latest_block(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(num_blocks=2, id="mine")
    begin(experiment, "static-b2", b"second\n")
    begin(experiment, "static-b1", b"first\n", end="completed")
    assert program("logs", "mine", "static").out == "first\n"
    assert program("logs", "mine", "static-b2").out == "second\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("statc",), "there is no leg 'statc'; did you mean static?"),
        (("sta",), "'sta' fits 2 legs: static, static_cap1p25; type one of them"),
        (("static",), "static has no log yet"),
        ((), "mine has no log yet"),
    ],
)
def test_what_has_no_log_is_one_sentence(
    words: tuple[str, ...], sentence: str, program: Callable, make_experiment: Make
) -> None:
    make_experiment(id="mine")
    done = program("logs", "mine", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {sentence}")


def test_bytes_that_are_no_text_pass_unchanged(make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    begin(experiment, "static-b1", b"\xff\x00\x1b[31m\n")
    command = [Path(sys.executable).parent / "nanochat-sweep", "logs", experiment.uri]
    assert subprocess.run(command, capture_output=True, timeout=60).stdout == b"\xff\x00\x1b[31m\n"


def test_following_a_leg_ends_with_it_and_misses_nothing(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    log = begin(experiment, "static-b1", b"one\n")
    experiment.lock()

    def write() -> None:
        time.sleep(0.7)
        with log.open("ab") as file:
            file.write(b"two\n")
        record = experiment.trial("static-b1")
        record.update_attempt(dataclasses.replace(record.attempts()[0], end="failed"))

    threading.Thread(target=write, daemon=True).start()
    done = program("logs", "mine", "static", "-f")
    experiment.unlock()
    assert (done.code, done.out) == (0, "one\ntwo\n")
    assert done.err == "mine is running\n"


def test_following_without_a_leg_goes_on_to_the_next_one(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    begin(experiment, "static-b1", b"one\n")
    experiment.lock()

    def write() -> None:
        time.sleep(0.7)
        begin(experiment, "static_cap1p25-b1", b"two\n")
        time.sleep(0.7)
        experiment.unlock()

    threading.Thread(target=write, daemon=True).start()
    done = program("logs", "mine", "--follow")
    assert (done.code, done.out) == (0, "one\ntwo\n")
    assert done.err.splitlines() == ["==> static-b1 <==", "==> static_cap1p25-b1 <==", "mine is interrupted"]


def test_following_what_nobody_runs_prints_and_ends(program: Callable, make_experiment: Make) -> None:
    begin(make_experiment(id="mine"), "static-b1", b"one\n")
    assert program("logs", "mine", "static", "-f").out == "one\n"
