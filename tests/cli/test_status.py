"""`status` as a user types it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow

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
    assert last == "static could not be compiled and went on uncompiled: its speed is not the leg's"
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
