"""What the environment of CPU ranks gains: tiny steps in a thread, as Ray runs them, under three settings of malloc.

    python -m bench.cpu_ranks [--rounds 3] [--steps 20]

The settings take turns, each time in a new process with one thread to compute. `default` is the control: what the C
library does by itself. `kept` returns no memory to the kernel; `ranks` is what the engine gives to its ranks. One line
per setting: the median over rounds of the median step, and of the pages per step that the kernel had to provide again.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from nanochat.config import with_overrides
from nanochat.loop.setup import prepare
from nanochat.loop.stepping import Stepper
from nanochat.recipes import d12_moe, shrink_to_tiny
from nanochat.stats import Hooks
from sweeps.engine.trials.driver import cpu_environment

_WARMUP_STEPS = 3
_RANKS = cpu_environment(num_threads=1)
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "kept": {name: value for name, value in _RANKS.items() if name.endswith("_THRESHOLD_")},
    "ranks": {name: value for name, value in _RANKS.items() if name.startswith("MALLOC_")},
}


def main(words: Sequence[str] | None = None) -> None:
    """Prints a line per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if asked.child:
        thread = threading.Thread(target=_measure, args=(asked.steps,))
        thread.start()
        thread.join()
        return
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
    for _ in range(asked.rounds):
        for name, environment in SETTINGS.items():
            found[name].append(_child(environment, asked.steps))
    for name, figures in found.items():
        dt_ms, faults = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"{name}: {dt_ms:.0f} ms a step; {faults:,.0f} pages a step", flush=True)


def _child(environment: dict[str, str], num_steps: int) -> tuple[float, float]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-m", "bench.cpu_ranks", "--child", "--steps", str(num_steps)]
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    root = Path(__file__).parent.parent
    printed = subprocess.run(
        command, cwd=root, env=inherited | one_thread | environment, check=True, stdout=subprocess.PIPE, text=True
    )
    dt_ms, faults = json.loads(printed.stdout.splitlines()[-1])
    return dt_ms, faults


def _measure(num_steps: int) -> None:
    config = shrink_to_tiny(d12_moe(_WARMUP_STEPS + num_steps))
    run = prepare(with_overrides(config, {"compile.mode": "none"}), Hooks())
    take_step = Stepper(run)
    for step in range(_WARMUP_STEPS):
        take_step(step)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    dts_ms = [take_step(_WARMUP_STEPS + step).dt_ms for step in range(num_steps)]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    run.feed.close()
    print(json.dumps([statistics.median(dts_ms), faults / num_steps]))


if __name__ == "__main__":
    main()
