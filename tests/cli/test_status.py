"""`status` as a user types it."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from tests.helpers.failing import fail_attempt

PROGRAM = Path(sys.executable).parent / "nanochat-sweep"
Make = Callable[..., Experiment]


def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=60)


def test_a_running_experiment_is_shown_by_a_prefix_of_its_id(
    make_experiment: Make, make_row: Callable[..., StepRow], tmp_path: Path
) -> None:
    experiment = make_experiment()
    experiment.lock()
    experiment.trial("static-b1").start_attempt(num_workers=2)
    experiment.trial("static-b1").append_rows(0, [make_row(0)])
    done = call("status", "2026", "--storage", tmp_path / "storage")
    assert (done.returncode, done.stderr) == (0, "")
    first, _, headings, static, *_ = done.stdout.splitlines()
    assert first == "20260101_120000_toy: running"
    assert headings.split()[:3] == ["run", "status", "steps_observed"]
    assert static.split()[:5] == ["static", "running", "1", "0", "10.0000"]


def test_a_leg_that_went_on_uncompiled_is_told(make_experiment: Make, make_row: Callable[..., StepRow]) -> None:
    experiment = make_experiment()
    experiment.trial("static-b1").append_rows(0, [make_row(0, flags=("fallback", "warmup"))])
    last = call("status", experiment.uri).stdout.splitlines()[-1]
    assert last == "static could not be compiled and continued uncompiled: its speed is not the leg's"
    static, *others = json.loads(call("status", experiment.uri, "--json").stdout)["trials"]
    assert static["fell_back"]
    assert not any(trial["fell_back"] for trial in others)


def test_a_leg_without_timing_is_told(
    make_experiment: Make, complete: Callable[..., None], make_row: Callable[..., StepRow]
) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1", [make_row(s, flags=("checkpoint",)) for s in range(40)])
    last = call("status", experiment.uri).stdout.splitlines()[-1]
    assert last == "static has no timing: 0 of 40 steps count, the window has 10; 40 steps were beside a save"


def test_a_failed_leg_says_why_where_its_log_is_and_what_to_do(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment()
    record = experiment.trial("static_cap1p25-b1")
    fail_attempt(record, "OutOfMemoryError", "no memory for 2 GiB")
    log = f"{experiment.uri}/trials/static_cap1p25-b1/log.txt"
    command = f"nanochat-sweep retry {experiment.uri} --legs static_cap1p25"
    lines = call("status", experiment.uri).stdout.splitlines()
    assert lines[-3:] == [
        "static_cap1p25 failed: OutOfMemoryError: no memory for 2 GiB",
        f"  log: {log}",
        f"  next: {command}",
    ]
    trials = json.loads(call("status", experiment.uri, "--json").stdout)["trials"]
    assert {t["name"]: t["failure"] for t in trials} == {
        **dict.fromkeys(("static", "none_cap1p25", "bf16")),
        "static_cap1p25": {
            "error": "OutOfMemoryError: no memory for 2 GiB",
            "log": log,
            "next_command": command,
        },
    }


def test_an_error_that_holds_anything_is_one_line_and_valid_json(make_experiment: Make) -> None:
    experiment = make_experiment()
    record = experiment.trial("static-b1")
    record.update_attempt(dataclasses.replace(record.start_attempt(num_workers=2), end="failed"))
    file = Path(experiment.uri) / "trials" / "static-b1" / "attempts" / "000.json"
    stored = json.loads(file.read_text())
    message = "\x1b[2J first\nsecond \u202e" + "x" * 5000
    file.write_text(json.dumps(stored | {"error": {"type": "E", "message": message, "traceback": ""}}))
    done = call("status", experiment.uri)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("static failed: ")]
    assert line.startswith("static failed: E: [2J first second xxx")
    assert len(line) < 400
    trial = json.loads(call("status", experiment.uri, "--json").stdout)["trials"][0]
    assert trial["failure"]["error"] == f"E: {message}"


def test_a_failed_leg_of_one_block_is_retried_by_its_trials_name_and_one_without_an_error_says_so(
    make_experiment: Make,
) -> None:
    experiment = make_experiment(num_blocks=2)
    record = experiment.trial("static-b2")
    record.update_attempt(dataclasses.replace(record.start_attempt(num_workers=2), end="failed"))
    out = call("status", experiment.uri).stdout
    assert "static-b2 failed: its error was not stored" in out
    assert out.endswith("--legs static-b2\n")


def test_a_diverged_leg_is_not_just_completed(
    make_experiment: Make, complete: Callable[..., None], make_row: Callable[..., StepRow]
) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1", [make_row(s, loss=float("nan")) for s in range(40)])
    out = call("status", experiment.uri).stdout
    assert next(line.split()[1] for line in out.splitlines() if line.startswith("static ")) == "diverged"
    assert out.endswith("static diverged: the loss is not a finite number in 10 of the last 10 steps\n")
    static = json.loads(call("status", experiment.uri, "--json").stdout)["trials"][0]
    assert (static["status"], static["last_loss"]) == ("completed", pytest.approx(6.1))
    assert static["diverged"] == "the loss is not a finite number in 10 of the last 10 steps"


def test_json_is_the_only_thing_on_stdout_and_damage_is_told_on_stderr(
    make_experiment: Make, make_row: Callable[..., StepRow]
) -> None:
    experiment = make_experiment()
    experiment.trial("static-b1").append_rows(0, [make_row(0), make_row(1)])
    part = Path(experiment.uri) / "trials" / "static-b1" / "rows" / "a000-p000000.jsonl"
    part.write_bytes(part.read_bytes()[:-9])
    done = call("status", experiment.uri, "--json")
    assert json.loads(done.stdout)["trials"][0]["steps_observed"] == 1
    assert done.stderr == f"warning: {part} is torn: its whole lines are used, the rest is ignored\n"


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a heartbeat in 2099": lambda trial: change(trial / "attempts/000.json", "started_utc", "yesterday"),
    "a step of 10**30": lambda trial: change(trial / "result.json", "last_step", 10**30),
    "a loss of 10**400": lambda trial: change(trial / "result.json", "peak_mib", 10**400),
    "another type": lambda trial: change(trial / "attempts/000.json", "facts", [1]),
    "a depth without end": lambda trial: (trial / "result.json").write_text("[" * 100_000),
    "cut off": lambda trial: (trial / "result.json").write_text('{"schema": '),
    "a link": lambda trial: replace_by_link(trial / "result.json"),
    "a folder for a file": lambda trial: ((trial / "result.json").unlink(), (trial / "result.json").mkdir()),
    "a file for a folder": lambda trial: (shutil.rmtree(trial), trial.write_text("x")),
}


def change(file: Path, field: str, value: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))


def replace_by_link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


@pytest.mark.parametrize("how", HOSTILE)
def test_a_damaged_trial_is_shown_as_damaged_and_all_others_as_before(
    program: Callable, make_experiment: Make, complete: Callable[..., None], how: str
) -> None:
    experiment = make_experiment()
    for trial in ("static-b1", "bf16-b1"):
        complete(experiment, trial)
    before = json.loads(program("status", experiment.uri, "--json").out)["trials"]
    HOSTILE[how](Path(experiment.uri, "trials", "static-b1"))
    done = program("status", experiment.uri, "--json")
    assert done.code == 0
    damaged, *others = json.loads(done.out)["trials"]
    assert others == before[1:]
    assert (damaged["status"], damaged["steps_observed"]) == ("damaged", 0)
    assert "static-b1" in damaged["damage"]
    assert done.err == f"warning: static is left out: {damaged['damage']}\n"
    text = program("status", experiment.uri)
    assert text.code == 0
    assert [line.split()[1] for line in text.out.splitlines() if line.startswith(("static ", "bf16 "))] == [
        "damaged",
        "completed",
    ]
    assert program("ls", "--json").code == 0


def test_a_folder_that_is_no_experiment_is_one_sentence_and_code_2(tmp_path: Path) -> None:
    done = call("status", f"{tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path} is no experiment: it holds no manifest.json")
    assert len(done.stderr.splitlines()) == 1


def test_an_ambiguous_prefix_is_code_2_and_a_damaged_manifest_code_7(make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment()
    make_experiment(id="20260101_130000_toy")
    assert call("status", "2026", "--storage", tmp_path / "storage").returncode == 2
    (Path(experiment.uri) / "manifest.json").write_text("{")
    done = call("status", experiment.uri)
    assert done.returncode == 7
    assert "manifest.json is damaged" in done.stderr


def test_status_needs_neither_torch_ray_nor_pyarrow(make_experiment: Make) -> None:
    script = (
        "import sys; from cli.main import app; app(['status', sys.argv[1]], standalone_mode=False); "
        "print([name for name in ('torch', 'ray', 'pyarrow', 'numpy', 'jinja2') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script, make_experiment().uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
