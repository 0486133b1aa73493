"""The truth table of a trial's life."""

import pytest

from sweeps.engine.trials.next_move import Move, Policy, StoredTrial, next_move
from sweeps.records.documents import AttemptEnd

POLICY = Policy(max_interruptions=2)


def move(
    *ends: AttemptEnd | None, has_result: bool = False, stop: bool = False, num_earlier: int = 0, retry: bool = False
) -> Move:
    stored = StoredTrial(
        has_result=has_result, stop_requested=stop, ends=ends, num_earlier=num_earlier, retry_asked=retry
    )
    return next_move(stored, POLICY)


def test_a_new_trial_starts() -> None:
    assert move() is Move.START


@pytest.mark.parametrize("ends", [(), ("completed",), ("failed",), (None,)])
def test_a_trial_with_a_result_is_never_touched(ends: tuple[AttemptEnd | None, ...]) -> None:
    assert move(*ends, has_result=True) is Move.NOTHING
    assert move(*ends, has_result=True, stop=True) is Move.NOTHING


def test_a_completed_attempt_without_a_result_gets_its_result_even_while_stopping() -> None:
    assert move("completed") is Move.WRITE_RESULT
    assert move("interrupted", "completed", stop=True) is Move.WRITE_RESULT


@pytest.mark.parametrize("end", [None, "interrupted", "stopped"])
def test_an_attempt_cut_off_from_outside_is_continued(end: AttemptEnd | None) -> None:
    assert move(end) is Move.CONTINUE


def test_a_failed_attempt_is_not_repeated() -> None:
    assert move("failed") is Move.GIVE_UP_FAILED
    assert move("interrupted", "failed", num_earlier=2) is Move.GIVE_UP_FAILED


def test_a_failed_attempt_is_continued_once_somebody_asks_for_it() -> None:
    assert move("failed", retry=True) is Move.CONTINUE
    assert move("interrupted", "failed", num_earlier=2, retry=True) is Move.CONTINUE
    assert move("failed", retry=True, stop=True) is Move.PAUSE
    assert move("failed", retry=True, has_result=True) is Move.NOTHING


def test_the_attempt_after_a_retry_is_judged_by_its_own_end() -> None:
    assert move("failed", "failed") is Move.GIVE_UP_FAILED
    assert move("failed", "completed") is Move.WRITE_RESULT


def test_a_requested_stop_starts_nothing() -> None:
    assert move(stop=True) is Move.PAUSE
    assert move("interrupted", stop=True) is Move.PAUSE


def test_interruptions_are_borne_up_to_the_cap() -> None:
    assert move("interrupted") is Move.CONTINUE
    assert move("interrupted", "interrupted") is Move.GIVE_UP_INTERRUPTED
    assert move("interrupted", None) is Move.GIVE_UP_INTERRUPTED


def test_interruptions_of_earlier_launches_do_not_count() -> None:
    assert move("interrupted", "interrupted", "interrupted", num_earlier=3) is Move.CONTINUE
    assert move("interrupted", "interrupted", "interrupted", num_earlier=2) is Move.CONTINUE
    assert move("interrupted", "interrupted", "interrupted", num_earlier=1) is Move.GIVE_UP_INTERRUPTED


def test_a_stop_as_asked_is_no_interruption() -> None:
    assert move("stopped", "stopped", "interrupted") is Move.CONTINUE
