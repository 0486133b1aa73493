"""What commands over a large experiment cost: processor time, time and memory of each, in a process of its own.

The experiment is made up: legs x blocks of completed trials, each row as large as a real one with twelve layers of
experts. The control of each command is the same command over an experiment of a tenth of the trials: what does not grow
with them is start-up. `after a leg` is what a launch does when a leg completes, beside all those that have.

    python bench/results_scale.py --trials 1000 --steps 300
"""

import argparse
import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nanochat.recipes import d12_moe_fp8
from nanochat.stats import StartFacts
from sweeps.records.documents import AttemptRecord, TrialResult, to_bytes
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.records.rows import StepRow, encode_rows
from sweeps.records.trial import TrialRecord
from sweeps.spec import Axis, Gate, Sweep, TailWindow
from sweeps.spec.plan import Plan, Trial, make_plan

NUM_BLOCKS, NUM_LAYERS = 5, 12
UTC = "2026-01-01T12:00:00.000000Z"
_AFTER_A_LEG = """
import sys, time
from sweeps.records.experiment import Experiment
from sweeps.results.report.build import refresh
experiment = Experiment.open(sys.argv[1])
experiment.lock()
refresh(experiment)
name = experiment.plan.trials[-1].name
result = experiment.store.read(f"trials/{name}/result.json")
experiment.store.delete(f"trials/{name}/result.json")
refresh(experiment)
experiment.store.write(f"trials/{name}/result.json", result)
begun, cpu = time.perf_counter(), time.process_time()
refresh(experiment)
experiment.unlock()
print(f"{time.process_time() - cpu:.2f} {time.perf_counter() - begun:.2f}")
"""


def main() -> None:
    """Builds both experiments and prints a line per command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=300, help="at least 80, for a timing window")
    parser.add_argument("--keep", type=Path, help="a folder for the experiments, used again if they are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = options.keep or Path(scratch)
        for num_trials in (options.trials // 10, options.trials):
            storage = root / f"{num_trials}x{options.steps}"
            if not storage.exists():
                build(storage, num_trials, options.steps)
            print(f"{num_trials} trials of {options.steps} steps")
            for words in (["ls"], ["status", "large"], ["export", "large"], ["status", "large"], ["report", "large"]):
                print(f"  {words[0]:12} {timed(storage, words)}", flush=True)
            print(f"  {'after a leg':12} {after_a_leg(storage)}", flush=True)


def timed(storage: Path, words: list[str]) -> str:
    """One command: its processor time, its time and the most memory that it had."""
    command = [str(Path(sys.executable).parent / "nanochat-sweep"), *words, "--storage", str(storage)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - begun
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return f"{used.ru_utime + used.ru_stime:6.2f} s of CPU, {wall_s:6.2f} s, {used.ru_maxrss / 1024:6.0f} MiB"


def after_a_leg(storage: Path) -> str:
    """The refresh of a launch whose last leg has just completed."""
    command = [sys.executable, "-c", _AFTER_A_LEG, str(storage / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    cpu_s, wall_s = map(float, done.stdout.split())
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return f"{cpu_s:6.2f} s of CPU, {wall_s:6.2f} s, {memory:6.0f} MiB"


def build(storage: Path, num_trials: int, num_steps: int) -> None:
    """An experiment with every trial completed."""
    num_blocks = min(NUM_BLOCKS, num_trials)
    rates = [0.01 + 0.0001 * i for i in range(num_trials // num_blocks)]
    sweep = Sweep(
        name="large",
        question="What does a large experiment cost to read?",
        base=d12_moe_fp8(num_steps=num_steps),
        num_workers=8,
        axes=[Axis("optim.matrix_lr", rates)],
        baseline={"optim.matrix_lr": rates[0]},
        candidate={"optim.matrix_lr": rates[1]},
        window=TailWindow(num_steps=50),
        gates=[Gate("tok_per_sec", improves="baseline"), Gate("peak_mib", at_most=1.05), Gate("loss", at_most=1.005)],
    )
    plan = make_plan(sweep, num_blocks)
    experiment = Experiment.create(str(storage), "large", new_manifest(plan, id="large", argv=["bench"], settings={}))
    folder = Path(experiment.uri)
    for number, trial in enumerate(plan.trials):
        _complete(folder, experiment.trial(trial.name), plan, trial, number, num_steps)


def _complete(folder: Path, record: TrialRecord, plan: Plan, trial: Trial, number: int, num_steps: int) -> None:
    rows = [_row(trial, step, number, num_steps) for step in range(num_steps)]
    facts = StartFacts(
        world_size=8,
        device="cuda",
        device_name="NVIDIA H200",
        peak_bf16_flops=989e12,
        num_steps=num_steps,
        first_step=0,
        total_batch_tokens=524288,
        grad_accum_steps=1,
        flops_per_token=1e9,
        num_params=1,
        num_active_params=1,
        backends={"experts": "grouped"},
        compile_cache="warm",
    )
    attempt = AttemptRecord(
        number=0,
        host="host",
        pid=1,
        started_utc=UTC,
        num_workers=plan.num_workers,
        first_step=0,
        end="completed",
        ended_utc=UTC,
        facts=dataclasses.asdict(facts),
        run_s=60.0,
    )
    result = TrialResult(
        trial=trial.name,
        leg=trial.leg.name,
        block=trial.block,
        status="completed",
        last_step=num_steps - 1,
        num_attempts=1,
        peak_mib=60_000.0,
        total_time_min=1.0,
        min_val_bpb=None,
        ended_utc=UTC,
    )
    files = {
        f"{record.folders.attempts}/000.json": to_bytes(attempt),
        f"{record.folders.rows}/compacted-000.jsonl": encode_rows(rows),
        record.folders.result: to_bytes(result),
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _row(trial: Trial, step: int, number: int, num_steps: int) -> StepRow:
    wobble = ((step * 7919 + number * 104729) % 1000) / 1000
    dt_ms = 400 + number % 7 + wobble
    layers = tuple(round(wobble + layer / 10, 4) for layer in range(NUM_LAYERS))
    return StepRow(
        step=step,
        num_steps=num_steps,
        loss=3.4 + 7.5 / (1 + step / 30) + wobble / 100,
        loss_ema=3.4 + 7.5 / (1 + step / 30) + wobble / 500,
        bal=24.1 + wobble,
        lr_mult=1.0,
        dt_ms=dt_ms,
        dt_median_ms=dt_ms - 0.5,
        slowest_rank=step % 8,
        data_ms=0.1 + wobble,
        forward_ms=130 + wobble,
        backward_ms=220 + wobble,
        optimizer_ms=40 + wobble,
        communication_ms=5 + wobble,
        checkpoint_ms=0.0,
        data_median_ms=0.1,
        forward_median_ms=130 + wobble,
        backward_median_ms=219 + wobble,
        optimizer_median_ms=40 + wobble,
        communication_median_ms=4 + wobble,
        checkpoint_median_ms=0.0,
        tok_per_sec=524_288_000 / dt_ms,
        bf16_mfu_pct=40 + wobble,
        useful_mfu_pct=39 + wobble,
        compiled_graphs=0,
        epoch=1,
        served_digest=f"{trial.block:04d}{step:012d}",
        train_time_s=max(0, step - 10) * 0.4,
        dropped_pct=wobble,
        max_vio=wobble,
        dead_experts=0.0,
        lost_tokens_pct=0.0,
        layer_dropped_pct=layers,
        layer_max_vio=layers,
        layer_dead_experts=layers,
        layer_lost_tokens_pct=layers,
        peak_mib=60_000.0,
        gpu_clock_mhz=1980.0,
        gpu_power_w=650 + wobble,
        gpu_temperature_c=60.0,
        gpu_throttle_bits=0,
        val_bpb=None,
        flags=("warmup",) if step < 20 else (),
        trial=trial.name,
        attempt=0,
    )


if __name__ == "__main__":
    main()
