"""How long an attempt may store nothing new. A rank that really hangs: tests/integration/test_faults.py."""

from nanochat.loop.waiting import Landmarks
from sweeps.engine.cluster.session import COLLECTIVE_TIMEOUT_S
from sweeps.engine.ranks import process_group
from sweeps.engine.ranks.stacks import RankPlace
from sweeps.engine.watching.hang_watch import Clock, Limits, hang_message

LIMITS = Limits(first_step_s=100, step_s=10)
STARTED, ONE_PART = (2, 0, 0), (2, 1, 0)


def test_before_the_first_rows_the_longer_limit_holds() -> None:
    clock = Clock(LIMITS)
    assert clock.look(STARTED, now=1000) is None
    assert clock.look(STARTED, now=1100) is None
    assert clock.look(STARTED, now=1101) == 100


def test_whatever_is_new_begins_the_time_again() -> None:
    clock = Clock(LIMITS)
    clock.look(ONE_PART, now=0)
    assert clock.look((2, 2, 0), now=10) is None
    assert clock.look((2, 2, 1), now=20) is None
    assert clock.look((2, 2, 1), now=31) == 10


def test_no_time_runs_before_a_rank_has_started_or_while_storage_is_away() -> None:
    clock = Clock(LIMITS)
    clock.look((0, 0, 0), now=0)
    assert clock.look((0, 0, 0), now=5000) is None
    clock.look(ONE_PART, now=5000)
    clock.forgive(now=5100)
    assert clock.look(ONE_PART, now=5110) is None


def test_the_limits_end_before_the_collectives_timeouts() -> None:
    assert Limits().step_s < Limits().first_step_s < min(process_group.TIMEOUT_S, COLLECTIVE_TIMEOUT_S)


def test_the_cause_names_the_rank_or_says_that_it_cannot() -> None:
    landmarks = Landmarks.here(__file__, "train")
    stuck = f'Thread 1\n  File "a.py", line 1 in f\n  File "{__file__}", line 1 in train\n'
    waiting = stuck.replace("a.py", f"{landmarks.collectives[0]}c.py")
    ranks = [RankPlace(rank=r, host="h", node_id="n", pid=10 + r, landmarks=landmarks) for r in range(2)]
    told = hang_message(ranks, {0: waiting, 1: stuck}, 600, "EXP/s")
    assert told.startswith(
        "rank 1 (h, process 11) is in f (a.py:1), and the others wait for that. Nothing was stored for 600 s"
    )
    assert hang_message(ranks, {0: waiting, 1: waiting}, 600, "EXP/s").startswith("each rank waits")
    stopped = "process 11 did not answer within 20 s; its state is T (stopped)"
    assert hang_message(ranks, {0: waiting, 1: stopped}, 600, "EXP/s").startswith(
        "rank 1 (h, process 11) did not answer"
    )
