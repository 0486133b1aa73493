"""The long run: `python -m tests.fuzz --mutations 100000 --seed 1`; prints each new kind of fault as it is found.

`--experiment DIR` damages a copy of a recorded experiment, `--checkpoints` a checkpoint. Work is done in memory, if
the system has a folder for that.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.campaign import Campaign, Faults
from tests.fuzz.checkpoints import CheckpointCampaign

MEMORY = Path("/dev/shm")
MOST_BYTES = 4 * 2**30  # more than what is there already


def main() -> int:
    """Returns 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--mutations", type=int, default=1000, help="How many. Default: 1000.")
    parser.add_argument("--first", type=int, default=0, help="Number of the first one. Default: 0.")
    parser.add_argument("--seed", type=int, default=1, help="Default: 1.")
    parser.add_argument("--experiment", type=Path, help="A recorded experiment to damage a copy of.")
    parser.add_argument("--checkpoints", action="store_true", help="Damage a checkpoint.")
    options = parser.parse_args()
    faults, begin = Faults(), time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None, prefix="fuzz-") as folder:
        campaign = (
            CheckpointCampaign(Path(folder)) if options.checkpoints else Campaign(Path(folder), options.experiment)
        )
        _limit_memory()
        for number in range(options.first, options.first + options.mutations):
            what, problems = campaign.mutate(options.seed, number)
            for sentence in faults.add(number, what, problems):
                print(sentence, flush=True)
            if faults.num_done % 1000 == 0:
                print(f"{faults.num_done} mutations, {_minutes(begin)}", flush=True)
    print(
        f"{faults.num_done} mutations of seed {options.seed}, {_minutes(begin)}, faults: {sum(faults.by_kind.values())}"
    )
    return 1 if faults.by_kind else 0


def _minutes(begin: float) -> str:
    return f"{(time.monotonic() - begin) / 60:.1f} min"


def _limit_memory() -> None:
    """Of what is written to; what a library reserves and never touches does not count."""
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + MOST_BYTES, resource.getrlimit(resource.RLIMIT_DATA)[1]))


if __name__ == "__main__":
    sys.exit(main())
