"""A step with peers: gradients are sent once, however many micro-steps there are, and its time is accounted for."""

from pathlib import Path
from typing import Any

from nanochat.loop.setup import prepare
from nanochat.loop.stepping import Stepper
from nanochat.machine.ranks import Ranks
from nanochat.metering.meter import RankStep
from nanochat.optimizer import groups as optim
from nanochat.stats import Hooks
from tests.helpers.configs import MICRO_BATCH_TOKENS, tiny_config


def two_steps(_ranks: Ranks, folder: str) -> tuple[list[RankStep], list[int], int]:
    """Each with three micro-steps per rank. What a rank measured, how many parcels each step sent, and of how many."""
    optim.BUCKET_ELEMENTS = 10_000
    sent: list[int] = []
    send = Ranks.reduce_scatter_mean
    setattr(Ranks, "reduce_scatter_mean", lambda *args: (sent.append(1), send(*args))[1])  # noqa: B010, of the class
    config = tiny_config(folder, **{"schedule.num_steps": 2, "data.total_batch_tokens": 6 * MICRO_BATCH_TOKENS})
    run = prepare(config, Hooks())
    take_step = Stepper(run)
    steps: list[RankStep] = []
    counts: list[int] = []
    for step in range(2):
        steps.append(take_step(step, checkpoint_ms=5.0 * step))
        counts.append(len(sent))
        sent.clear()
    run.feed.close()
    return steps, counts, len(run.optimizer.reduction.queue)


def test_with_a_peer_gradients_are_sent_once_a_step_and_its_phases_add_up(small_text: Path, run_world: Any):
    (first, *sent), (second, *sent_by_second) = run_world(two_steps, 2, str(small_text))
    counts, num_parcels = sent
    assert counts == [num_parcels, num_parcels]
    assert num_parcels > 10
    assert sent_by_second == sent
    for number, step in enumerate((*first, *second)):
        *measured, checkpoint_ms = step.phases_ms
        assert all(spent_ms > 0 for spent_ms in measured), "waiting for the peer too"
        assert 0.5 * step.dt_ms < sum(measured) <= step.dt_ms
        assert checkpoint_ms == 5.0 * (number % 2)
