"""How soon a user is answered on this machine, each figure next to a control that does the unavoidable part alone.

    python -m bench.answers [--rounds 5] [--trials 100] [--steps 300]

CPU seconds, the median over rounds in which figure and control take turns:

- `--help`, and the start of an interpreter that does nothing;
- `status --json` of an experiment with that many trials and steps, and its rows parsed as JSON and nothing else;
- the embedded corpus built into an empty cache, and a tokenizer trained on its text and nothing else.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nanochat.data import corpus as dataset
from nanochat.data import tokenizer
from nanochat.data.shards import TEXT_COLUMN, open_shard
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.status import status_json
from sweeps.smoke import SWEEP
from sweeps.spec.plan import make_plan


def main(words: Sequence[str] | None = None) -> None:
    """Prints a line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(sys.executable).parent / "nanochat-sweep")
        _compare("--help", asked.rounds, lambda: _child(program, "--help"), lambda: _child(sys.executable, "-c", ""))
        experiment = large_experiment(Path(folder), asked.trials, asked.steps)
        _compare(
            f"status of {asked.trials} trials of {asked.steps} steps",
            asked.rounds,
            lambda: _own(lambda: status_json(read_snapshot(Experiment.open(experiment.uri)))),
            lambda: _own(lambda: parse_rows(Path(experiment.uri))),
        )
        corpus = dataset.prepare_embedded(Path(folder) / "cache")
        shards: list[Any] = [open_shard(path) for path in corpus.train_shards]
        texts: list[str] = [text for shard in shards for text in shard.read()[TEXT_COLUMN].to_pylist()]
        _compare(
            "the embedded corpus",
            asked.rounds,
            lambda: _own(lambda: _in_an_empty_folder(dataset.prepare_embedded)),
            lambda: _own(lambda: tokenizer.learn(texts)),
        )


def large_experiment(folder: Path, num_trials: int, num_steps: int) -> Experiment:
    """The two legs of smoke in as many blocks as it takes, none of them ended, with rows of invented numbers."""
    plan = make_plan(SWEEP, num_blocks=math.ceil(num_trials / 2))
    manifest = new_manifest(plan, id="large", argv=["nanochat-sweep"], settings={})
    experiment = Experiment.create(str(folder), "large", manifest)
    for record in experiment.trials():
        record.append_rows(0, [_row(step, num_steps, record.name) for step in range(num_steps)])
    return experiment


def _row(step: int, num_steps: int, trial: str) -> StepRow:
    return StepRow(
        step=step,
        num_steps=num_steps,
        loss=10.0 - step / num_steps,
        loss_ema=10.0 - step / num_steps,
        bal=4.0,
        lr_mult=1.0,
        dt_ms=100.0 + step / 7,
        dt_median_ms=99.0 + step / 7,
        slowest_rank=1,
        tok_per_sec=5120.0 - step / 7,
        bf16_mfu_pct=5.0,
        useful_mfu_pct=5.0,
        epoch=1,
        train_time_s=step / 10,
        dropped_pct=None,
        max_vio=0.25,
        dead_experts=0,
        lost_tokens_pct=None,
        peak_mib=900.0,
        val_bpb=None,
        flags=(),
        trial=trial,
        attempt=0,
    )


def parse_rows(experiment: Path) -> int:
    """How many lines of JSON are in the experiment's files of rows."""
    return sum(len([json.loads(line) for line in file.open()]) for file in experiment.glob("trials/*/rows/*.jsonl"))


def _compare(name: str, num_rounds: int, figure: Callable[[], float], control: Callable[[], float]) -> None:
    for unmeasured in (figure, control):  # writes bytecode, and brings files into memory
        unmeasured()
    pairs = [(figure(), control()) for _ in range(num_rounds)]
    ours, bare = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"{name}: {ours:.3f} s of CPU; control {bare:.3f} s", flush=True)


def _child(*command: str) -> float:
    """CPU seconds of a program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _own(action: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    begin_s = time.process_time()
    action()
    return time.process_time() - begin_s


def _in_an_empty_folder(action: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        action(Path(folder))


if __name__ == "__main__":
    main()
