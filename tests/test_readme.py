"""README.md does what it says: every command and every program in it is run here, as it stands there.

A command is looked up by its exact text. One that is new or changed fails the first test until a test runs it.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.main import app
from nanochat.config import with_overrides
from nanochat.stats import Hooks, StepStats
from nanochat.train import train
from sweeps.records.experiment import Experiment
from sweeps.spec.find import built_in_sweeps

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for line in re.sub(r" *\\\n *", " ", block).splitlines()
]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
FULL_SIZE = "nanochat-sweep launch sweeps/capacity.py"
TORCHRUN = "torchrun --rdzv-backend=loopback --rdzv-endpoint=127.0.0.1 --nproc_per_node=2"
TESTED_BY = {
    "make demo": "test_the_demo_completes_a_leg_that_learns",
    "make test": "test_make_test_checks_everything",
    ". .venv/bin/activate": "test_the_program_is_found_once_the_environment_is_active",
    "nanochat-sweep doctor": "test_the_machine_and_the_text_are_described",
    "nanochat-sweep data": "test_the_machine_and_the_text_are_described",
    "nanochat-sweep plan sweeps/capacity.py": "test_plans_are_printed",
    "nanochat-sweep plan width.py": "test_plans_are_printed",
    "nanochat-sweep launch width.py --blocks auto --name width": "test_the_first_sweep_is_launched_and_judged",
    "nanochat-sweep gate width": "test_the_first_sweep_is_launched_and_judged",
    "nanochat-sweep plan width.py --preset tiny": "test_plans_are_printed",
    "nanochat-sweep plan width.py --commands": "test_plans_are_printed",
    FULL_SIZE: "test_a_full_size_launch_is_planned_and_wants_gpus",
    f"{FULL_SIZE} --num-workers 2": "test_a_full_size_launch_is_planned_and_wants_gpus",
    f"{FULL_SIZE} --num-workers 1 --num-steps 80 --set data.total_batch_tokens=65536": (
        "test_a_full_size_launch_is_planned_and_wants_gpus"
    ),
    "nanochat-sweep launch sweeps/smoke.py --name first": "test_a_first_experiment_from_launch_to_results",
    "nanochat-sweep ls": "test_a_first_experiment_from_launch_to_results",
    "nanochat-sweep status first": "test_a_first_experiment_from_launch_to_results",
    "nanochat-sweep status first --watch": "test_a_first_experiment_from_launch_to_results",
    "nanochat-sweep stop first": "test_a_first_experiment_from_launch_to_results",
    "nanochat-sweep retry first": "test_a_first_experiment_from_launch_to_results",
    "nanochat-sweep logs first": "test_a_first_experiment_from_launch_to_results",
    "nanochat-sweep restore first": "test_a_first_experiment_from_launch_to_results",
    "nanochat-sweep report first --out-md results/report.md": "test_a_first_experiment_from_launch_to_results",
    "nanochat-sweep export first --out results": "test_a_first_experiment_from_launch_to_results",
    "nanochat-sweep status first --json": "test_a_first_experiment_from_launch_to_results",
    f"{TORCHRUN} -m scripts.base_train -- --help": "test_the_trainer_runs_under_torchrun",
    f"{TORCHRUN} -m scripts.base_train --"
    " --use-moe --compile-mode none --depth 2 --head-dim 32 --max-seq-len 128"
    " --device-batch-size 2 --total-batch-size 512 --num-iterations 20 --save-every 10"
    " --eval-every -1 --core-metric-every -1 --sample-every -1 --model-tag little": (
        "test_the_trainer_runs_under_torchrun"
    ),
}


def commands_of(test: str) -> list[str]:
    """The README's commands that a test runs, in the README's order."""
    return [command for command in COMMANDS if TESTED_BY.get(command) == test]


@pytest.fixture
def place(tmp_path: Path, make_place: Callable[[Path], Path]) -> Path:
    """A folder that looks like the checkout and can be written into."""
    return make_place(tmp_path)


@pytest.fixture
def run(run_in_shell: Run) -> Run:
    """Runs a line of the README in a shell without GPUs."""
    return run_in_shell


def test_every_command_of_the_readme_is_run_by_a_test_of_this_file() -> None:
    assert sorted(COMMANDS) == sorted(TESTED_BY)
    assert set(TESTED_BY.values()) <= {name for name in globals() if name.startswith("test_")}


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_tree_names_what_there_is() -> None:
    tree = README.split("## Repository layout")[1].split("```")[1]
    folder, missing = ROOT, []
    for line in tree.strip("\n").splitlines():
        name = line.split()[0]
        indented = line.startswith("  ")
        folder = folder if indented else ROOT / name
        if not (folder / name if indented else folder).is_dir():
            missing.append(name)
    assert missing == []


def test_every_verb_and_every_sweep_that_comes_with_it_is_named() -> None:
    verbs = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    assert len(verbs) >= 10
    assert [verb for verb in verbs if not re.search(rf"\b{verb}\b", README)] == []
    assert [name for name in built_in_sweeps() if f"{name}.py" not in README] == []


def test_the_machine_and_the_text_are_described(place: Path, run: Run) -> None:
    doctor, data = (run(command, place, 120) for command in commands_of("test_the_machine_and_the_text_are_described"))
    assert doctor.returncode == 0, doctor.stdout
    assert "--preset tiny" in doctor.stdout  # without a GPU it says what works
    assert data.returncode == 0, data.stderr
    assert data.stdout.startswith("corpus     austen\n")


def test_plans_are_printed(place: Path, run: Run) -> None:
    (place / "width.py").write_text(PROGRAMS[0])
    full, capacity, tiny, torchrun = (run(command, place) for command in commands_of("test_plans_are_printed"))
    assert (full.returncode, capacity.returncode, tiny.returncode, torchrun.returncode) == (0, 0, 0, 0)
    assert "200 steps of 524,288 tokens" in full.stdout
    assert "6 legs x 1 block = 6 trials, one at a time, on 8 workers" in capacity.stdout
    assert tiny.stdout.startswith("width: Do wider experts pay for themselves at the same number of steps?")
    assert "40 steps of 512 tokens" in tiny.stdout
    assert [line.split()[0] for line in torchrun.stdout.splitlines()] == ["torchrun", "torchrun"]


@pytest.mark.parametrize("command", commands_of("test_a_full_size_launch_is_planned_and_wants_gpus"))
def test_a_full_size_launch_is_planned_and_wants_gpus(command: str, place: Path, run: Run) -> None:
    refused = run(command, place)
    assert (refused.returncode, refused.stdout) == (69, "")
    assert not (place / "storage").exists()

    planned = run(command.replace("launch", "plan") + " --json", place)
    plan = json.loads(planned.stdout)
    words = shlex.split(command)
    workers = int(words[words.index("--num-workers") + 1]) if "--num-workers" in words else 8
    assert (plan["num_workers"], len(plan["legs"])) == (workers, 6)
    assert all(f"--nproc_per_node={workers}" in leg["torchrun"] for leg in plan["legs"])


@pytest.mark.integration
def test_the_first_sweep_is_launched_and_judged(place: Path, run: Run) -> None:
    launch, gate = commands_of("test_the_first_sweep_is_launched_and_judged")
    (place / "width.py").write_text(PROGRAMS[0])
    refused = run(launch, place)
    assert (refused.returncode, refused.stdout) == (69, "")  # it wants GPUs

    small = launch.replace("--blocks auto", "--preset tiny --set compile.mode=none")
    done = run(small, place, timeout_s=900)
    assert done.returncode == 0, done.stderr
    judged = run(gate, place)
    assert judged.returncode == 4, judged.stderr  # one block is advice
    assert judged.stdout.startswith("ADVISORY")


def test_make_test_checks_everything(place: Path, run: Run) -> None:
    (command,) = commands_of("test_make_test_checks_everything")
    steps = run(f"{command} --dry-run --assume-old=install", ROOT, timeout_s=60).stdout.splitlines()
    tools = [Path(words[0]).name for words in map(shlex.split, steps) if words and "/bin/" in words[0]]
    assert tools == ["ruff", "ruff", "pyright", "lint-imports"]
    together, alone = [shlex.split(step.split("-m pytest ")[1]) for step in steps if "pytest" in step]
    apart = ["--numprocesses", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    assert together == ["-q", "-m", "not long", *apart]
    assert alone[:4] == ["-q", "-m", "long", "--collect-only"]  # so none is left out


def test_the_program_is_found_once_the_environment_is_active(place: Path, run: Run) -> None:
    (command,) = commands_of("test_the_program_is_found_once_the_environment_is_active")
    done = run(f"PATH=/usr/bin:/bin; {command} && nanochat-sweep --version", place)
    assert done.stdout.startswith("nanochat-sweep "), done.stderr


@pytest.mark.integration
def test_a_first_experiment_from_launch_to_results(
    first_experiment: Any, digests: Callable[[Path], dict[str, str]], run: Run
) -> None:
    place, storage = first_experiment.place, first_experiment.place / "storage" / "first"
    launch, *others = commands_of("test_a_first_experiment_from_launch_to_results")
    assert launch == first_experiment.command
    assert first_experiment.out.splitlines() == [
        str(storage / file)
        for file in ("report/report.md", "report/report.html", "export/legs.parquet", "export/steps.parquet")
    ]
    said = [line for line in first_experiment.err.splitlines() if "waiting for" not in line]  # as on a slow machine
    assert not [line for line in said if "Ray" in line]
    assert "Warning" not in first_experiment.err

    trials = digests(storage / "trials")
    done: dict[str, str] = {}
    for command in others:
        finished = run(command, place, timeout_s=900)
        assert finished.returncode == 0, f"{command}\n{finished.stderr}"
        done[command] = finished.stdout
    assert "completed" in done["nanochat-sweep status first"]
    assert "step 00039/00040" in done["nanochat-sweep logs first"]
    assert json.loads(done["nanochat-sweep status first --json"])["state"] == "completed"
    assert (place / "results" / "report.md").read_text().startswith("# smoke")
    assert digests(storage / "trials") == trials  # whatever is asked of a completed experiment, its restore included

    reading = run(f"python - <<'END'\n{PROGRAMS[1]}\nEND", place)
    assert re.search(r"capped .*\n.*exact ", reading.stdout), reading.stderr


@pytest.mark.integration
def test_the_trainer_runs_under_torchrun(place: Path, run: Run) -> None:
    asked_help, training = commands_of("test_the_trainer_runs_under_torchrun")
    assert "--moe-capacity-factor" in run(asked_help, place).stdout

    trained = run(training, place, timeout_s=900)
    assert trained.returncode == 0, trained.stderr
    assert re.search(r"^step 00019/00020 .* \| bal: ", trained.stdout, re.MULTILINE)
    again = run(f"{training} --resume latest", place, timeout_s=600)
    assert "Number of iterations: 20, starting at 20" in again.stdout, again.stderr


def test_the_demo_launches_the_whole_capacity_sweep(place: Path, run: Run) -> None:
    (command,) = commands_of("test_the_demo_completes_a_leg_that_learns")
    steps = run(f"{command} --dry-run --assume-old=install BIN={BIN}", place).stdout.splitlines()
    launch = next(step for step in steps if " launch " in step)
    assert re.search(r" launch sweeps/capacity.py --preset tiny --address local --name demo_\w+ *$", launch)


@pytest.mark.integration
@pytest.mark.timeout(2000)
def test_the_demo_completes_a_leg_that_learns(place: Path, run: Run) -> None:
    """One of its legs, compiled, in fewer steps: all of it takes a quarter of the suite's time (decision 0031)."""
    (command,) = commands_of("test_the_demo_completes_a_leg_that_learns")
    leg = "moe_fp8_experts_static_cap1p0"
    done = run(f"{command} --assume-old=install BIN={BIN} DEMO_FLAGS='--legs={leg} --num-steps=24'", place, 1900)
    assert done.returncode == 0, done.stderr
    (experiment,) = (place / "storage").iterdir()
    for file in ("report/report.md", "export/legs.parquet", "export/steps.parquet"):
        assert str(experiment / file) in done.stdout
        assert (experiment / file).is_file()
    (trial,) = json.loads(run(f"nanochat-sweep status {experiment.name} --json", place).stdout)["trials"]
    assert (trial["leg"], trial["status"], trial["last_step"]) == (leg, "completed", 23)
    assert trial["last_loss"] < 7.5

    opened = Experiment.open(str(experiment))
    compiled = opened.trial(f"{leg}-b1").rows()
    assert compiled[0].compiled_graphs
    uncompiled: list[StepStats] = []
    hooks = Hooks(on_step=uncompiled.append, should_stop=lambda: len(uncompiled) >= 3)
    train(with_overrides(opened.plan.trials[0].config, {"compile.mode": "none"}), hooks)  # on one rank, without Ray
    for ours, theirs in zip(compiled[:3], uncompiled[:3], strict=True):  # later on, rounding is amplified
        assert ours.loss == pytest.approx(theirs.loss, abs=0.05)
