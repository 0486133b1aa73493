"""Trials are handed to Ray Tune in the plan's order, one at a time."""

from ray.tune.search import Searcher

from sweeps.engine.trials.order import PlanOrder


def test_the_next_trial_waits_for_the_one_before() -> None:
    order = PlanOrder([{"trial": "a"}, {"trial": "b"}])
    assert order.suggest(trial_id="1") == {"trial": "a"}
    assert order.suggest(trial_id="2") is None
    order.on_trial_complete(trial_id="1", result=None, error=False)
    assert order.suggest(trial_id="2") == {"trial": "b"}
    order.on_trial_complete(trial_id="2", result=None, error=True)
    assert order.suggest(trial_id="3") == Searcher.FINISHED


def test_after_a_stop_nothing_more_is_suggested() -> None:
    order = PlanOrder([{"trial": "a"}, {"trial": "b"}])
    order.suggest(trial_id="1")
    order.stop()
    assert order.suggest(trial_id="2") is None
    order.on_trial_complete(trial_id="1")
    assert order.suggest(trial_id="2") == Searcher.FINISHED


def test_tune_may_set_any_search_properties() -> None:
    assert PlanOrder([]).set_search_properties(None, None, {}, spec=1)
