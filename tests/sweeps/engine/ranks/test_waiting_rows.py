"""Rows that wait in memory are stored with a leg's own error, whichever rank it is of."""

import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from sweeps.engine.ranks import rank as rank_module
from sweeps.engine.ranks.rank import Rank, RankTask
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from tests.helpers.ranks import TRIAL, OneRank, open_rank, stored_steps
from tests.helpers.rows import stats_of


@pytest.fixture
def experiment(make_experiment: Callable[..., Experiment]) -> Experiment:
    return make_experiment()


def test_the_rows_before_an_error_are_stored_with_it_skipped_steps_included(
    experiment: Experiment, make_row: Callable[..., StepRow]
) -> None:
    rank, _ = open_rank(experiment)
    rank.hooks().on_step(stats_of(make_row(0)))
    for step in (1, 2):
        rank.hooks().on_step(stats_of(make_row(step, loss=math.nan, loss_ema=math.inf, flags=("skipped",))))
    assert rank.store_error(ValueError("steps 1 to 2 all had a gradient that is not finite"))
    record = experiment.trial(TRIAL)
    rows = record.rows()
    assert [(row.step, row.flags) for row in rows] == [(0, make_row(0).flags), (1, ("skipped",)), (2, ("skipped",))]
    assert [math.isnan(row.loss) for row in rows] == [False, True, True]
    assert rows[2].loss_ema == math.inf
    attempt = record.attempt(0)
    assert attempt.error is not None
    assert attempt.last_step_utc is not None


def test_an_error_is_stored_though_its_rows_cannot_be(
    experiment: Experiment, make_row: Callable[..., StepRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    rank, _ = open_rank(experiment)
    rank.hooks().on_step(stats_of(make_row(0)))

    def refuse(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(experiment.store), "create", refuse)
    assert rank.store_error(ValueError("the cause"))
    assert experiment.trial(TRIAL).attempt(0).error is not None


@pytest.fixture
def two_ranks(
    experiment: Experiment, make_row: Callable[..., StepRow], monkeypatch: pytest.MonkeyPatch
) -> tuple[Rank, Rank]:
    """The first one has a row that it has not stored."""
    monkeypatch.setattr(rank_module, "STOP_POLL_S", 0.1)
    rank, group = open_rank(experiment)
    rank.hooks().on_step(stats_of(make_row(0)))
    return rank, Rank(RankTask(experiment.uri, TRIAL, 0), OneRank(group.train, 0, is_first=False))


def test_rows_are_stored_with_the_error_of_another_rank_while_the_first_one_waits_for_it(
    experiment: Experiment, two_ranks: tuple[Rank, Rank]
) -> None:
    rank, other = two_ranks
    with rank.running():  # the training thread is in a collective that the other rank never enters
        assert other.store_error(ValueError("the cause"))
        assert stored_steps(experiment) == [0]
    error = experiment.trial(TRIAL).attempt(0).error
    assert error is not None
    assert error.message == "the cause"


def test_a_rank_that_fails_does_not_wait_long_for_a_first_one_that_is_gone(two_ranks: tuple[Rank, Rank]) -> None:
    rank, other = two_ranks
    rank.look()
    begin_s = time.monotonic()
    assert other.store_error(ValueError("the cause"))
    assert 1 < time.monotonic() - begin_s < 10
