"""Experiments in a temporary folder, with rows that a test invents or, once for all, as the README makes its first.

And the order of files.
"""

import dataclasses
import fcntl
import functools
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nanochat.data.corpus import cache_folder
from nanochat.recipes import d12_moe_fp8, shrink_to_tiny
from sweeps.records.documents import Manifest, TrialResult, utc_now
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec import Axis, Control, Gate, Sweep, TailWindow
from sweeps.spec.names import moe_leg_name
from sweeps.spec.plan import Plan, Trial, make_plan
from tests.helpers.judged import completed_snapshot
from tests.helpers.rows import row

# Graphs are compiled once for all tests, wherever a test keeps its corpora.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled" / "torchinductor"))

# Triton's language is imported once per process, for a GPU or for its interpreter. Without a GPU, for the interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

LONGEST = "test_readme.py"
ROOT = Path(__file__).parent.parent
MAKE_ADDS = ("OMP_NUM_THREADS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # what `make test` adds to the environment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests take minutes come first, then those that train, so that no core waits for one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("integration")}

    def order(item: pytest.Item) -> tuple[bool, bool, bool]:
        trains = "nanochat" in item.path.relative_to(ROOT).parts
        return item.path.name != LONGEST, item.path not in slow, not trains

    items.sort(key=order)


FACTS: dict[str, Any] = {
    "world_size": 2,
    "device": "cuda",
    "device_name": "NVIDIA H100",
    "peak_bf16_flops": 989e12,
    "num_steps": 40,
    "first_step": 0,
    "total_batch_tokens": 512,
    "grad_accum_steps": 1,
    "flops_per_token": 1e6,
    "num_params": 1000,
    "num_active_params": 700,
    "backends": {"experts": "grouped", "linears": "float8"},
    "compile_cache": "cold",
}


@pytest.fixture
def make_row() -> Callable[..., StepRow]:
    """A plausible row of a step: loss 10 - step / 10, 100 ms, warm-up for 20 steps."""
    return row


@pytest.fixture
def toy_plan() -> Callable[..., Plan]:
    """A plan of three FP8 legs (baseline, candidate, one more) and a bf16 control named bf16, 10 steps of window."""

    def plan(num_blocks: int = 1) -> Plan:
        sweep = Sweep(
            name="toy",
            question="Does a bounded queue pay?",
            base=shrink_to_tiny(d12_moe_fp8(num_steps=40)),
            num_workers=2,
            axes=[Axis("compile.mode", ["static", "none"]), Axis("moe.capacity_factor", [None, 1.25])],
            only=[("static", None), ("static", 1.25), ("none", 1.25)],
            controls=[Control({"precision.linears": "bf16", "precision.experts": "bf16"}, name="bf16")],
            baseline={"compile.mode": "static", "moe.capacity_factor": None},
            candidate={"compile.mode": "static", "moe.capacity_factor": 1.25},
            window=TailWindow(num_steps=10),
            gates=[Gate("tok_per_sec", improves="baseline"), Gate("loss", at_most=0.99)],
            leg_name=lambda c: "bf16" if c.precision.linears == "bf16" else _leg_name(c),
        )
        return make_plan(sweep, num_blocks)

    return plan


def _leg_name(config: Any) -> str:
    return config.compile.mode + ("" if config.moe.capacity_factor is None else "_cap1p25")


@pytest.fixture
def make_manifest(toy_plan: Callable[..., Plan]) -> Callable[..., Manifest]:
    """The manifest of the toy plan, at a fixed time and commit."""

    def manifest(num_blocks: int = 1, id: str = "20260101_120000_toy") -> Manifest:
        launched = new_manifest(toy_plan(num_blocks), id=id, argv=["nanochat-sweep", "launch", "toy.py"], settings={})
        return dataclasses.replace(launched, created_utc="2026-01-01T12:00:00.000000Z", git_commit="c0ffee")

    return manifest


@pytest.fixture
def make_experiment(tmp_path: Path, make_manifest: Callable[..., Manifest]) -> Callable[..., Experiment]:
    """A fresh experiment of the toy plan in tmp_path/storage."""

    def experiment(num_blocks: int = 1, id: str = "20260101_120000_toy") -> Experiment:
        return Experiment.create(str(tmp_path / "storage"), id, make_manifest(num_blocks, id))

    return experiment


@pytest.fixture
def complete() -> Callable[..., None]:
    """Runs a trial from its first step to its result: complete(experiment, trial, rows, **facts)."""

    def run(experiment: Experiment, trial: str, rows: Iterable[StepRow] | None = None, **facts: Any) -> None:
        record = experiment.trial(trial)
        planned = next(t for t in experiment.plan.trials if t.name == trial)
        rows = [row(s, trial=trial) for s in range(40)] if rows is None else list(rows)
        attempt = record.start_attempt(num_workers=2)
        record.write_config(planned.config)
        record.append_rows(attempt.number, rows)
        ended = dataclasses.replace(attempt, first_step=0, end="completed", ended_utc=utc_now(), facts=FACTS | facts)
        record.update_attempt(ended)
        record.compact()
        record.write_result(
            TrialResult(
                trial=trial,
                leg=planned.leg.name,
                block=planned.block,
                status="completed",
                last_step=rows[-1].step,
                num_attempts=attempt.number + 1,
                peak_mib=max(r.peak_mib for r in rows),
                total_time_min=rows[-1].train_time_s / 60,
                min_val_bpb=None,
                ended_utc=utc_now(),
            )
        )

    return run


@pytest.fixture(scope="session")
def large_snapshot() -> Snapshot:
    """20 legs in 4 blocks of 280 steps, as a GPU would give them, and one leg with as long a name as there can be."""
    sweep = Sweep(
        name="large",
        question="Does a bounded queue pay?",
        base=d12_moe_fp8(num_steps=280),
        num_workers=8,
        axes=[Axis("compile.mode", ["static", "dynamic", "none"]), Axis("moe.capacity_factor", [1.0, 1.25, 1.5, 2.0])],
        controls=[
            Control({"precision.linears": "bf16", "precision.experts": "bf16"}, name="bf16"),
            *(Control({"optim.matrix_lr": 0.01 * i}, name=f"control_{i}") for i in range(1, 7)),
            Control({"moe.capacity_factor": 3.0}, name=f"long_{'name_' * 19}"),
        ],
        baseline={"compile.mode": "static", "moe.capacity_factor": 1.0},
        candidate={"compile.mode": "static", "moe.capacity_factor": 1.25},
        window=TailWindow(num_steps=50),
        gates=[Gate("tok_per_sec", improves="baseline"), Gate("peak_mib", at_most=1.05), Gate("loss", at_most=1.005)],
        leg_name=moe_leg_name,
    )
    plan = make_plan(sweep, num_blocks=4)
    manifest = new_manifest(plan, id="20260101_120000_large", argv=["nanochat-sweep"], settings={})
    trials = [_large_trial(trial, i) for i, trial in enumerate(plan.trials)]
    return Snapshot(manifest=manifest, plan=plan, state="completed", trials=trials, torn_files=())


def _large_trial(trial: Trial, index: int) -> TrialSnapshot:
    pace_ms = 400 + 5 * (index % 20) + index // 20
    rows = [
        row(
            step,
            trial=trial.name,
            num_steps=280,
            loss=3.4 + 7.5 * math.exp(-step / 60) + index / 1000,
            loss_ema=3.4 + 7.5 * math.exp(-step / 60) + index / 1000,
            dt_ms=48_000.0 if step == 0 else pace_ms + math.sin(step * (index + 1)),
            tok_per_sec=524_288_000 / (pace_ms + math.sin(step * (index + 1))),
            train_time_s=max(0, step - 10) * pace_ms / 1000,
            peak_mib=60_000.0 + 100 * index,
            flags=("warmup",) if step < 20 else ("checkpoint",) if step % 70 == 0 else (),
        )
        for step in range(280)
    ]
    return completed_snapshot(trial, rows, FACTS, window_steps=50)


@pytest.fixture
def same_number() -> Callable[[float | None, float | None], bool]:
    """Equality in which NaN equals NaN."""
    return lambda a, b: a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))


@pytest.fixture(scope="session")
def make_place() -> Callable[[Path], Path]:
    """Makes a folder look like the checkout; it may be written into."""

    def make(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        for name in ("sweeps", "Makefile"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        return folder

    return make


@pytest.fixture(scope="session")
def run_in_shell() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs a line of the README in a shell without GPUs, its experiments and caches below `place`."""

    def run(command: str, place: Path, timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "CUDA_VISIBLE_DEVICES": "",
            "RAY_ADDRESS": "local",  # whatever else runs on this machine
            "NANOCHAT_SWEEP_STORAGE": str(place / "storage"),
            "NANOCHAT_CACHE": str(place / "cache"),
        }
        clean = {k: v for k, v in os.environ.items() if k not in MAKE_ADDS}
        return subprocess.run(
            ["bash", "-c", command], cwd=place, env=clean | own, capture_output=True, text=True, timeout=timeout_s
        )

    return run


@dataclass(frozen=True)
class FirstExperiment:
    """The README's first experiment, completed, in place/storage/first; and what its launch wrote."""

    place: Path
    command: str
    out: str
    err: str


@pytest.fixture(scope="session")
def first_experiment(
    tmp_path_factory: pytest.TempPathFactory,
    make_place: Callable[[Path], Path],
    run_in_shell: Callable[..., "subprocess.CompletedProcess[str]"],
) -> FirstExperiment:
    """Launched once: by the first test process that asks, while the others wait for it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    written = shared / "first.json"
    with (shared / "first.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not written.exists():
            place, command = make_place(shared / "first"), "nanochat-sweep launch sweeps/smoke.py --name first"
            done = run_in_shell(command, place, timeout_s=900)
            assert done.returncode == 0, done.stderr
            written.write_text(json.dumps([command, done.stdout, done.stderr]))
    return FirstExperiment(shared / "first", *json.loads(written.read_text()))


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """SHA-256 of every file below a folder, by its path from there."""

    def of_files(folder: Path) -> dict[str, str]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return of_files


@pytest.fixture
def fresh_process() -> Iterator[None]:
    """A test that trains several models, each as if its process were new."""
    from tests.helpers.runs import like_a_new_process

    with like_a_new_process():
        yield


@pytest.fixture
def dynamo_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are traced and split into graphs as ever, but no kernel is built, which takes most of the time."""
    from torch import nn

    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
