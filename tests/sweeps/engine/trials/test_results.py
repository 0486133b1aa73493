"""Results are regenerated next to the caller, one at a time, and never lost."""

import threading
import time
from collections.abc import Callable

from sweeps.engine.trials.results import ResultsThread
from sweeps.records.experiment import Experiment

Make = Callable[..., Experiment]


class Slow:
    """A regeneration that takes until it is let go."""

    def __init__(self) -> None:
        self.num_begun = self.num_at_once = self.num_most_at_once = 0
        self.blocks: list[int] = []
        self.begun, self.let_go = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, experiment: Experiment) -> None:
        self.num_begun += 1
        self.num_at_once += 1
        self.num_most_at_once = max(self.num_most_at_once, self.num_at_once)
        self.blocks.append(experiment.plan.num_blocks)
        self.begun.release()
        assert self.let_go.acquire(timeout=30)
        self.num_at_once -= 1


def test_asking_returns_at_once_and_many_asks_are_one_more(make_experiment: Make) -> None:
    slow = Slow()
    results = ResultsThread(make_experiment(), slow)
    begun_s = time.monotonic()
    results.ask()
    assert slow.begun.acquire(timeout=30)
    for _ in range(5):
        results.ask()
    assert time.monotonic() - begun_s < 5
    slow.let_go.release()
    assert slow.begun.acquire(timeout=30)
    slow.let_go.release()
    results.close()
    assert (slow.num_begun, slow.num_most_at_once) == (2, 1)


def test_closing_waits_for_what_has_begun_and_leaves_out_the_rest(make_experiment: Make) -> None:
    slow = Slow()
    results = ResultsThread(make_experiment(), slow)
    results.ask()
    assert slow.begun.acquire(timeout=30)
    results.ask()
    threading.Timer(0.2, slow.let_go.release).start()
    results.close()
    assert (slow.num_begun, slow.num_at_once) == (1, 0)


def test_closing_without_having_asked_is_nothing(make_experiment: Make) -> None:
    ResultsThread(make_experiment(), Slow()).close()


def test_blocks_that_were_added_are_seen(make_experiment: Make) -> None:
    experiment, slow = make_experiment(), Slow()
    results = ResultsThread(experiment, slow)
    for num_blocks in (1, 2):
        experiment.grow(num_blocks)
        results.ask()
        assert slow.begun.acquire(timeout=30)
        slow.let_go.release()
    results.close()
    assert slow.blocks == [1, 2]
