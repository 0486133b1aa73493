"""Who holds the others up is read from stacks and told in one sentence."""

import traceback
from concurrent.futures import Future

import pytest

from scripts.waiting import Answer, in_collective, place_of, verdict, waits

NAMES = ("rank 0 (a, process 10)", "rank 1 (b, process 11)", "rank 2 (b, process 12)")
WAITS, PACKS = Answer(waits=True, place="wait (dist.py:9)"), Answer(waits=False, place="pack (dataloader.py:7)")
CAUSE = "The others have waited for 60 s"


def _frame(file: str, line: str = "x = 1", name: str = "f") -> traceback.FrameSummary:
    return traceback.FrameSummary(file, 5, name, line=line)


@pytest.mark.parametrize(
    "innermost",
    [
        _frame("/home/me/project/nanochat/dist.py", "_all_gather(everyone, mine)"),
        _frame("/x/site-packages/torch/distributed/distributed_c10d.py", "work = group.barrier(opts=opts)"),
        _frame("/home/me/project/nanochat/optim.py", "gathered.wait()"),
    ],
    ids=lambda frame: frame.filename,
)
def test_collectives_are_waited_for_wherever_they_are_called(innermost: traceback.FrameSummary):
    stack = [_frame("/x/train.py"), innermost]
    assert waits(stack)
    assert in_collective(stack)


def test_a_wait_for_the_gpu_is_a_wait_for_the_others_but_no_collective():
    stack = [_frame("/x/train.py"), _frame("/x/nanochat/clock.py", "numbers = packed.tolist()")]
    assert waits(stack)
    assert not in_collective(stack)


def test_work_is_no_wait():
    assert not waits([_frame("/x/nanochat/dist.py"), *[_frame("/x/nanochat/dataloader.py")] * 4])
    assert not waits([_frame("/x/nanochat/gpt.py", "x = self.attention(norm(x), ids, cos, sin)")])
    assert not waits([])


def test_a_real_stack_of_a_thread_that_waits_for_a_future_is_a_wait():
    with pytest.raises(TimeoutError) as error:
        Future[int]().result(timeout=0.01)
    assert not in_collective(traceback.extract_tb(error.tb)), "the time is over before it is raised"
    assert place_of(traceback.extract_tb(error.tb)).startswith("result (_base.py:")
    assert place_of([]) == "no code of Python"


def test_a_rank_that_does_not_answer_is_named():
    assert verdict(NAMES, {0: WAITS, 2: WAITS}, CAUSE, answer_s=10) == (
        "rank 1 (b, process 11) did not answer within 10 s: killed, stopped, or stuck in code that is not Python. "
        "The others have waited for 60 s; add --resume latest to go on at the newest checkpoint"
    )
    both = verdict(NAMES, {0: WAITS}, CAUSE, answer_s=10)
    assert both.startswith("rank 1 (b, process 11) and rank 2 (b, process 12) did not answer within 10 s")


def test_a_rank_that_answers_but_does_not_wait_is_named_with_its_place():
    told = verdict(NAMES, {0: WAITS, 1: WAITS, 2: PACKS}, CAUSE, answer_s=10)
    assert told.startswith("rank 2 (b, process 12) is in pack (dataloader.py:7), and the others wait for that. The ")


def test_silence_says_more_than_work():
    assert "rank 2" not in verdict(NAMES, {0: WAITS, 2: PACKS}, CAUSE, answer_s=10)


@pytest.mark.parametrize("answer", [WAITS, PACKS])
def test_no_rank_is_named_where_all_are_alike(answer: Answer):
    told = verdict(NAMES, dict.fromkeys(range(3), answer), CAUSE, answer_s=10)
    assert told.startswith("every rank answered, so it cannot be told which of them holds the others up")
