"""Whole logs: several runs in a file, attempts that were resumed, accidents, and an account of every line."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.importer.logs import MAX_LINE_BYTES, Log, LoggedRun, read_log

START = "GPU: NVIDIA H800 | Peak FLOPS (BF16): 9.89e+14\nVocab size: 32,768\n"
END = "Peak memory usage: 22790.06MiB\nTotal training time: 5.21m\n"


def steps(first: int, last: int, num_steps: int = 20, time_min: float = 0.0) -> str:
    return "".join(
        f"step {i:05d}/{num_steps:05d} ({100 * i / num_steps:.2f}%) | loss: {10 - i / 10:.6f} | lrm: 1.00 | "
        f"dt: {100 + i:.2f}ms | tok/sec: {1000 + i:,} | bf16_mfu: 9.76 | total time: {time_min + i / 100:.2f}m\n"
        for i in range(first, last + 1)
    )


@pytest.fixture
def log_of(tmp_path: Path):
    def write(text: str | bytes) -> Log:
        path = tmp_path / "run.log"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_log(path)

    return write


def run_of(log: Log) -> LoggedRun:
    (run,) = log.runs
    return run


def test_a_finished_run_is_completed(log_of):
    run = run_of(log_of(START + steps(0, 19) + END))
    assert (run.status, len(run.steps), run.num_steps, run.attempts) == ("completed", 20, 20, 1)
    assert run.ends == {"peak_mib": 22790.06, "total_time_min": 5.21}
    assert [step.values["tok_per_sec"] for step in run.ordered()][:2] == [1000.0, 1001.0]


def test_without_the_last_lines_a_run_is_running_or_failed_and_without_steps_unknown(log_of):
    assert run_of(log_of(START + steps(0, 5))).status == "running"
    failed = run_of(log_of(START + steps(0, 5) + "Traceback (most recent call last):\n  x\nRuntimeError: too bad\n"))
    assert (failed.status, failed.error) == ("failed", "RuntimeError: too bad")
    assert run_of(log_of(START)).status == "unknown"
    assert log_of("").runs == []


def test_two_runs_in_a_file_are_two(log_of):
    first, second = log_of(START + steps(0, 19) + END + START + steps(0, 9)).runs
    assert (first.status, second.status) == ("completed", "running")
    assert (len(first.steps), len(second.steps)) == (20, 10)
    assert second.first_line == 25


def test_a_run_that_was_stopped_and_begun_again_is_two(log_of):
    assert [len(run.steps) for run in log_of(START + steps(0, 6) + START + steps(0, 3)).runs] == [7, 4]


def test_a_run_that_was_resumed_is_one_with_two_attempts(log_of):
    run = run_of(log_of(START + steps(0, 9) + "RuntimeError: lost\n" + START + steps(5, 19, time_min=1.0) + END))
    assert (run.status, run.attempts, len(run.steps), run.error) == ("completed", 2, 20, None)
    assert [step.attempt for step in run.ordered()] == [0] * 5 + [1] * 15
    assert run.ordered()[5].values["total_time_min"] == 1.05


def test_a_line_that_is_printed_twice_counts_once(log_of):
    text = steps(0, 9)
    doubled = "".join(line * 2 for line in text.splitlines(keepends=True))
    log = log_of(START + doubled)
    assert (len(run_of(log).steps), run_of(log).attempts, log.counts["repeated step"]) == (10, 1, 10)


def test_a_print_interval_leaves_gaps_that_are_no_attempts(log_of):
    lines = steps(0, 19).splitlines(keepends=True)[::5]
    assert (sorted(run_of(log_of("".join(lines))).steps), run_of(log_of("".join(lines))).attempts) == (
        [0, 5, 10, 15],
        1,
    )


def test_every_line_is_accounted_for(log_of):
    torn = steps(19, 19)[:40]
    log = log_of(START + steps(0, 9) + "och: 1 | total time: 3.00m\nsample | 3 |\nstep 00010/00020 (50.\n" + torn)
    assert log.num_lines == 16
    assert log.counts == {"fact": 2, "other": 2, "skipped: step line that is cut before its loss": 2, "step": 10}
    assert [skipped.line for skipped in log.skipped] == [15, 16]


def test_bytes_that_are_no_text_and_lines_without_end_do_no_harm(log_of):
    log = log_of(
        b"\xff\xfe\x00" * 10 + b"\n" + steps(0, 3).encode() + b"x" * (3 * MAX_LINE_BYTES) + b"\n" + END.encode()
    )
    assert len(run_of(log).steps) == 4
    assert log.counts["skipped: line longer than what is read of one"] == 1
    assert run_of(log).is_completed


def test_a_log_is_known_by_its_digest(log_of):
    import hashlib

    text = START + "y" * (2 * MAX_LINE_BYTES) + "\n" + END
    assert log_of(text).sha256 == hashlib.sha256(text.encode()).hexdigest()


WHOLE = (START + steps(0, 19) + END).encode()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_no_mutation_invents_a_number(tmp_path_factory: pytest.TempPathFactory, seed: int):
    """Lines dropped, doubled, cut, joined and overwritten: what is read was in some line."""
    chance = random.Random(seed)
    lines = WHOLE.splitlines(keepends=True)
    for _ in range(chance.randint(1, 8)):
        index = chance.randrange(len(lines))
        kind = chance.choice(["drop", "double", "cut", "join", "noise"])
        line = lines[index]
        lines[index : index + 1] = {
            "drop": [],
            "double": [line, line],
            "cut": [line[: chance.randint(0, len(line))] + b"\n"] if chance.random() < 0.5 else [line],
            "join": [line.rstrip(b"\n")],
            "noise": [bytes(chance.randrange(256) for _ in range(20)) + b"\n", line],
        }[kind] or ([] if len(lines) > 1 else [line])
    path = tmp_path_factory.mktemp("fuzz") / "run.log"
    path.write_bytes(b"".join(lines))
    log = read_log(path)
    for run in log.runs:
        for step in run.ordered():
            assert step.values["loss"] == pytest.approx(10 - step.step / 10)
            assert step.values.get("tok_per_sec", 1000 + step.step) == 1000 + step.step


def test_lines_of_another_length_are_another_run_without_a_start_line_too(log_of):
    log = log_of(steps(4, 5, num_steps=71680) + steps(498, 499, num_steps=500) + END)
    assert [(run.num_steps, sorted(run.steps), run.status) for run in log.runs] == [
        (71680, [4, 5], "running"),
        (500, [498, 499], "completed"),
    ]
