"""The trainer with short limits, and with faults on request: what tests of failures start under torchrun.

SIGUSR1 makes a rank's training hang in Python, SIGUSR2 makes it fail for lack of memory, each after the running step.
"""

import os
import signal
import sys
import time

from scripts import base_train, rank_watch

rank_watch.HANG_S, rank_watch.ANSWER_S = 6.0, 3.0
_asked: list[int] = []


class Faulty(rank_watch.RankWatch):
    """Does what it was asked for once the step is done."""

    def step_done(self) -> None:
        super().step_done()
        if signal.SIGUSR1 in _asked:
            dawdle()
        if signal.SIGUSR2 in _asked:
            raise MemoryError(f"on rank {os.environ['RANK']}")


def dawdle() -> None:
    time.sleep(1000)


if __name__ == "__main__":
    base_train.RankWatch = Faulty
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: _asked.append(number))
    sys.exit(base_train.main())
