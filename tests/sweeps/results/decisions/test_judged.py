"""A judgement is made once per snapshot, and is that of no other."""

from sweeps.results.decisions.judged import judged
from sweeps.results.decisions.judgement import judge
from tests.helpers.judged import judged_experiment


def test_a_snapshot_is_judged_once_and_another_by_itself() -> None:
    first, second = judged_experiment({"cap1": -0.02}), judged_experiment({"cap1": 0.02})
    known = judged(first)
    assert judged(first) is known
    assert known == judge(first)
    assert judged(second) == judge(second) != known
    assert judged(first) == known
