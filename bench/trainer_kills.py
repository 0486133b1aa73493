"""Kills the trainer at random moments, resumes it, and holds what comes out to an undisturbed run.

Each round trains a tiny model through the command line's own `main`, with a checkpoint every second step, and kills one
of its processes with SIGKILL some random time after the start: while it loads, in a step, in a save, next to a writer.
It is started again with `--resume latest` until it completes. Then every step's loss in the log, and in the last
checkpoint all weights, moments, data lanes, random states and averages, must be bit-equal to the undisturbed run's.
The last two rounds continue with another number of processes, which take sums in another order. They must differ from
the undisturbed run by no more than undisturbed runs of one, two and three processes do among each other, twice over.

Processes are forked from a server that has imported torch, so a kill costs one start without the imports. A round
prints its seed; `--seed SEED --rounds 1 --processes N` repeats it.

    python -m bench.trainer_kills --kills 30
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save  # pyright: ignore[reportUnknownVariableType]

from nanochat.checkpoints import folders as checkpoint_folders
from scripts import base_train

FLAGS = shlex.split(
    "--use-moe --n-experts 4 --expert-topk 2 --expert-hidden-mult 2 --depth 2 --aspect-ratio 16 --head-dim 16 "
    "--max-seq-len 32 --device-batch-size 2 --total-batch-size 384 --eval-every -1 --core-metric-every -1 "
    "--sample-every -1 --device-type cpu --compile-mode none --model-tag tiny --num-iterations 16 --save-every 2"
)
STEP_LINE = re.compile(r"^step (\d+)/\d+ .*?\| loss: (\S+) \| bal: (\S+) ", re.MULTILINE)
LIMIT_S = 60.0
MAX_STARTS = 40

Losses = dict[int, tuple[str, str]]  # step -> loss and balance as the log has them


@dataclass
class Trainer:
    """One run's folder and its processes, one start at a time."""

    root: Path
    store: TCPStore | None = None
    processes: list[ForkServerProcess] = field(default_factory=lambda: list[ForkServerProcess]())

    def start(self, num_processes: int) -> None:
        """Starts all ranks, as torchrun would, which also keeps their store; they resume from the newest checkpoint."""
        context = multiprocessing.get_context("forkserver")
        self.root.mkdir(exist_ok=True)
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        argv = [*FLAGS, "--checkpoint-root", str(self.root), "--resume", "latest"]
        self.processes = [
            context.Process(target=_rank, args=(rank, num_processes, self.store.port, argv, self.root / "log.txt"))
            for rank in range(num_processes)
        ]
        for process in self.processes:
            process.start()

    def wait(self, seconds: float) -> bool:
        """Whether all ranks end within the time."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return all(process.exitcode is not None for process in self.processes)

    def kill(self, victim: int, others_after_s: float) -> None:
        """One rank by SIGKILL. The others end by their own error, or are killed some time later."""
        self.processes[victim].kill()
        self.wait(others_after_s)
        for process in self.processes:
            process.kill()
        assert self.wait(LIMIT_S), "a killed process does not end"

    def completed(self) -> bool:
        """Whether every rank has ended well."""
        return all(process.exitcode == 0 for process in self.processes)

    def losses(self) -> Losses:
        """Of every step; of one that ran twice the later ones, after all have been found equal."""
        found: Losses = {}
        for step, loss, balance in STEP_LINE.findall((self.root / "log.txt").read_text()):
            found[int(step)] = loss, balance
        return found

    def state(self) -> dict[str, Any]:
        """Everything in the last checkpoint except its times."""
        folder = checkpoint_folders.newest_first(self.root / "base_checkpoints" / "tiny")[0]
        dcp_to_torch_save(folder, self.root / "whole.pt")
        trainer = json.loads((folder / "trainer.json").read_text())
        del trainer["train_time_s"]
        ranks = [path.read_bytes() for path in sorted(folder.glob("rank_*.pt"))]
        return {"tensors": torch.load(self.root / "whole.pt"), "trainer": trainer, "ranks": ranks}


def _rank(rank: int, world_size: int, port: int, argv: list[str], log: Path) -> None:
    """A forked process becomes a rank of the command-line trainer; its output goes to the run's log."""
    if world_size > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
        os.environ.update({name: str(value) for name, value in names.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    sys.argv = ["base_train", *argv]
    sys.exit(base_train.main())


def undisturbed(root: Path, num_processes: int) -> Trainer:
    """A run from start to end."""
    trainer = Trainer(root)
    trainer.start(num_processes)
    assert trainer.wait(600), "an undisturbed run does not end"
    assert trainer.completed(), (root / "log.txt").read_text()[-3000:]
    return trainer


def disturbed(root: Path, seed: int, sizes: list[int], num_kills: int, calm_s: float) -> tuple[Trainer, list[str]]:
    """A run that is killed `num_kills` times; start n has `sizes[n]` processes, or the last of them."""
    chance, trainer, kills = random.Random(seed), Trainer(root), list[str]()
    for number in range(MAX_STARTS):
        num_processes = sizes[min(number, len(sizes) - 1)]
        trainer.start(num_processes)
        after_s = chance.uniform(0, calm_s) if len(kills) < num_kills else 600.0
        victim = chance.randrange(num_processes)
        if trainer.wait(after_s):
            if trainer.completed():
                return trainer, kills
            raise AssertionError(f"seed {seed}: start {number} failed\n{(root / 'log.txt').read_text()[-3000:]}")
        trainer.kill(victim, others_after_s=chance.uniform(0, 3))
        kills.append(f"{after_s:.2f} s")
    raise AssertionError(f"seed {seed}: not complete after {MAX_STARTS} starts")


def continued(root: Path, seed: int, first: int, then: int) -> tuple[Trainer, int]:
    """A run on `first` processes, killed at one of its checkpoints and continued on `then`; and at which step."""
    trainer, wanted = Trainer(root), random.Random(seed).randrange(2, 14, 2)
    trainer.start(first)
    deadline = time.monotonic() + LIMIT_S * 10
    while not any(int(path.name[5:]) >= wanted for path in root.glob("base_checkpoints/*/step_*")):
        assert time.monotonic() < deadline, f"no checkpoint at step {wanted}"
        time.sleep(0.01)
    trainer.kill(0, others_after_s=0.0)
    trainer.start(then)
    assert trainer.wait(600), "a continued run does not end"
    assert trainer.completed(), (root / "log.txt").read_text()[-3000:]
    starts = [int(step) for step in re.findall(r"starting at (\d+)", (root / "log.txt").read_text())]
    assert len(starts) == 2, starts
    assert wanted - 2 <= starts[1] < 16, f"seed {seed} did not go on at a checkpoint but at step {starts[1]}"
    return trainer, starts[1]


def differences(ours: Trainer, theirs: Trainer) -> list[str]:
    """What is not bit-equal, by name."""
    state, wanted = ours.state(), theirs.state()
    different = [name for name in ("trainer", "ranks") if state[name] != wanted[name]]
    if ours.losses() != theirs.losses():
        different.append("losses in the log")
    tensors: dict[str, torch.Tensor] = wanted["tensors"]
    return different + [name for name, tensor in tensors.items() if not torch.equal(state["tensors"][name], tensor)]


def distance(ours: Trainer, theirs: Trainer) -> float:
    """The largest difference of a step's loss; both runs must have the same steps."""
    losses, wanted = ours.losses(), theirs.losses()
    assert losses.keys() == wanted.keys(), "the steps differ"
    return max(abs(float(losses[step][0]) - float(wanted[step][0])) for step in wanted)


def main() -> None:
    """Rounds until so many kills are done; a failure ends with its seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="over all rounds")
    parser.add_argument("--kills-per-round", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10_000, help="at most")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="of the rounds in turn")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; the next ones count on")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    multiprocessing.set_forkserver_preload(["scripts.base_train"])
    with tempfile.TemporaryDirectory(prefix="nanochat-sweep-trainer-kills-") as folder:
        began = time.monotonic()
        calm = {1: undisturbed(Path(folder, "calm-warm-up"), 1)}
        times = dict[int, float]()
        for size in (1, 2, 3):
            start = time.monotonic()
            calm[size] = undisturbed(Path(folder, f"calm-{size}"), size)
            times[size] = time.monotonic() - start
        noise = max(distance(calm[a], calm[b]) for a, b in ((1, 2), (1, 3), (2, 3)))
        print(f"undisturbed: {', '.join(f'{n} processes {s:.1f} s' for n, s in times.items())}; noise {noise:.6f}")
        done = 0
        for number in range(options.rounds):
            if done >= options.kills:
                break
            size, wanted = options.processes[number % len(options.processes)], options.kills - done
            num_kills = min(options.kills_per_round, wanted)
            root = Path(folder, f"round-{number}")
            trainer, kills = disturbed(root, seed + number, [size], num_kills, times[size])
            different = differences(trainer, calm[size])
            done += len(kills)
            print(f"seed {seed + number}, {size} processes, killed after {', '.join(kills) or '-'}: ", end="")
            print("DIFFERENT in " + ", ".join(different) if different else f"bit-equal; {done} kills", flush=True)
            assert not different
        for first, then in ((2, 1), (1, 3)):
            trainer, at_step = continued(Path(folder, f"from-{first}"), seed, first, then)
            largest = distance(trainer, calm[first])
            print(f"{first} -> {then} processes at step {at_step}: loss differs by at most {largest:.6f}", flush=True)
            assert largest <= 2 * noise
        print(f"{done} kills in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
