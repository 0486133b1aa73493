"""Kills workers, drivers and launchers of a small real sweep at random moments, and holds what comes out to a calm run.

Each round launches the sweep and disturbs it a few times; a launch that ended is restored. However it went, the round
must end with the calm run's step table (bit-equal except times), with the files of completed legs as they were at each
kill, and with no process left. A round prints its seed, so that it can be repeated: `--seed SEED --rounds 1`.

    python bench/kills.py --kills 100
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from nanochat.stats import REPEATABLE
from sweeps.engine.processes import launch_processes
from sweeps.engine.ranks.stacks import places
from sweeps.records.experiment import Experiment

PROGRAM = Path(sys.executable).parent / "nanochat-sweep"
SWEEP = ["smoke", "--num-steps", "12", "--set", "run.checkpoint_every=3"]
VICTIMS = ("worker", "driver", "launcher")
GONE_S = 60.0
MAX_LAUNCHES = 40

Table = list[dict[str, object]]


@dataclass
class Round:
    """One disturbed experiment."""

    storage: Path
    seed: int
    kills_wanted: int
    calm_s: float
    kills: list[str] = field(default_factory=lambda: list[str]())
    completed_files: dict[str, dict[str, str]] = field(default_factory=lambda: dict[str, dict[str, str]]())

    def run(self) -> Table:
        """Launches, kills, restores until it is complete; its step table."""
        chance = random.Random(self.seed)
        name = f"rough-{self.seed}"
        for number in range(MAX_LAUNCHES):
            exists = (self.storage / name / "manifest.json").exists()
            process = start(self.storage, *(["restore", name] if exists else ["launch", *SWEEP, "--name", name]))
            code = self._disturb(process, chance, name)
            self._wait_until_gone(name)
            if code == 0:
                return self._checked(name)
            if code not in (-signal.SIGKILL, 5):
                raise AssertionError(f"launch {number} of seed {self.seed} ended with {code}")
        raise AssertionError(f"seed {self.seed} is not complete after {MAX_LAUNCHES} launches")

    def _disturb(self, process: "subprocess.Popen[bytes]", chance: random.Random, name: str) -> int:
        """Kills at random moments until the launch has ended."""
        while True:
            wait_s = chance.uniform(0, self.calm_s) if len(self.kills) < self.kills_wanted else 900.0
            kind = chance.choice(VICTIMS)
            try:
                return process.wait(timeout=wait_s)
            except subprocess.TimeoutExpired:
                if len(self.kills) >= self.kills_wanted:
                    process.kill()
                    raise AssertionError(f"seed {self.seed}: an undisturbed launch did not end in 900 s") from None
            self._kill(kind, process, chance, name)

    def _kill(self, kind: str, launcher: "subprocess.Popen[bytes]", chance: random.Random, name: str) -> None:
        """One victim of the kind; nothing if there is none at this moment."""
        pids = {"worker": self._workers, "driver": self._drivers}[kind](name) if kind != "launcher" else [launcher.pid]
        living = [pid for pid in pids if pid == launcher.pid or launch_processes.is_marked(pid)]
        if not living:
            return
        self._note_completed(name)
        os.kill(chance.choice(living), signal.SIGKILL)
        self.kills.append(kind)

    def _workers(self, name: str) -> list[int]:
        experiment = self._experiment(name)
        if experiment is None:
            return []
        running = [(r.name, r.attempts()) for r in experiment.trials() if r.result() is None]
        return [p.pid for trial, a in running if a for p in places(experiment.store, trial, a[-1].number)]

    def _drivers(self, name: str) -> list[int]:
        experiment = self._experiment(name)
        ends = [r.attempts()[-1:] for r in experiment.trials()] if experiment else []
        return [attempt.pid for attempts in ends for attempt in attempts if attempt.end is None]

    def _experiment(self, name: str) -> Experiment | None:
        uri = self.storage / name
        return Experiment.open(str(uri)) if (uri / "manifest.json").exists() else None

    def _note_completed(self, name: str) -> None:
        for result in (self.storage / name).glob("trials/*/result.json"):
            self.completed_files.setdefault(result.parent.name, digests(result.parent))

    def _wait_until_gone(self, name: str) -> None:
        deadline = time.monotonic() + GONE_S
        while left := launch_processes.leftovers(str(self.storage / name), own_mark=""):
            if time.monotonic() > deadline:
                raise AssertionError(f"seed {self.seed}: processes {left} outlive their launch")
            time.sleep(0.1)

    def _checked(self, name: str) -> Table:
        for trial, before in self.completed_files.items():
            assert digests(self.storage / name / "trials" / trial) == before, f"seed {self.seed}: {trial} has changed"
        experiment = Experiment.open(str(self.storage / name))
        assert experiment.owner() is None
        return table(experiment)


def start(storage: Path, *words: str) -> "subprocess.Popen[bytes]":
    """The program in its own process group, its output in a file of the storage."""
    with (storage / "output.txt").open("ab") as output:
        command = [str(PROGRAM), *words, "--storage", str(storage), "--address", "local"]
        return subprocess.Popen(command, stdout=output, stderr=output, process_group=0)


def table(experiment: Experiment) -> Table:
    """All rows of all trials, of each what no interruption can change."""
    rows = [row for record in experiment.trials() for row in record.rows()]
    return [{k: v for k, v in vars(row).items() if k in REPEATABLE or k == "trial"} for row in rows]


def digests(folder: Path) -> dict[str, str]:
    """Each file's digest."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _calm_s(storage: Path, name: str) -> float:
    """How long an undisturbed experiment takes, which stays in `storage`."""
    began = time.monotonic()
    if start(storage, "launch", *SWEEP, "--name", name).wait() != 0:
        raise AssertionError((storage / "output.txt").read_text())
    return time.monotonic() - began


def main() -> None:
    """Rounds until so many kills are done, or the time is over; a failure ends with its seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="over all rounds")
    parser.add_argument("--kills-per-round", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10_000, help="at most")
    parser.add_argument("--minutes", type=float, default=1e9, help="no new round starts after this time")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; the next ones count on")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    began, done = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="nanochat-sweep-kills-") as folder:
        storage = Path(folder)
        _calm_s(storage, "first")  # fills the compile cache: kills are spread over the time of a run that finds it full
        calm_s, wanted = _calm_s(storage, "calm"), table(Experiment.open(str(storage / "calm")))
        print(f"calm run: {calm_s:.0f} s, {len(wanted)} steps", flush=True)
        for round_seed in range(seed, seed + options.rounds):
            if done >= options.kills or (time.monotonic() - began) / 60 > options.minutes:
                break
            disturbed = Round(storage, round_seed, min(options.kills_per_round, options.kills - done), calm_s)
            try:
                assert disturbed.run() == wanted, f"seed {round_seed}: the step table differs"
            except AssertionError:
                print((storage / "output.txt").read_text()[-5000:], flush=True)
                raise
            done += len(disturbed.kills)
            print(f"seed {round_seed}: {', '.join(disturbed.kills) or 'no kill'}; equal; {done} kills", flush=True)


if __name__ == "__main__":
    main()
