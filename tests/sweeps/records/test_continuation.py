"""What a new experiment can take over from another one, and that the copies are whole by themselves."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nanochat.config import with_overrides
from nanochat.stats import TextFacts
from sweeps.records.continuation import choose, copy, drop_unfinished_copies
from sweeps.records.experiment import Experiment
from sweeps.spec.plan import Plan

Make = Callable[..., Experiment]
Complete = Callable[..., None]
LEG, OTHER = "static-b1", "none_cap1p25-b1"


def changed(plan: Plan, trial: str, **fields: object) -> Plan:
    """The plan with another value in some fields of one trial's config; `__` stands for the dot."""
    overrides = {name.replace("__", "."): value for name, value in fields.items()}
    trials = [replace(t, config=with_overrides(t.config, overrides)) if t.name == trial else t for t in plan.trials]
    return replace(plan, trials=tuple(trials))


def test_only_completed_legs_with_the_same_config_are_taken(make_experiment: Make, complete: Complete) -> None:
    source = make_experiment(id="old")
    complete(source, LEG)
    complete(source, OTHER)
    source.trial("bf16-b1").start_attempt(num_workers=2)
    choice = choose(source, changed(source.plan, OTHER, optim__matrix_lr=0.5), {})
    assert choice.taken == (LEG,)
    assert choice.left == {
        OTHER: f"optim.matrix_lr is {source.plan.trials[0].config.optim.matrix_lr!r} there, 0.5 here",
        "static_cap1p25-b1": "it is pending there",
        "bf16-b1": "it is interrupted there",
    }


def test_a_leg_that_ran_on_another_number_of_workers_is_run(make_experiment: Make, complete: Complete) -> None:
    source = make_experiment(id="old")
    complete(source, LEG)
    choice = choose(source, replace(source.plan, num_workers=4), {})
    assert choice.taken == ()
    assert choice.left[LEG] == "it ran on 2 workers there, on 4 here"


def test_a_leg_of_another_block_is_none_of_the_old_ones(make_experiment: Make, complete: Complete) -> None:
    source = make_experiment(id="old")
    complete(source, LEG)
    choice = choose(source, make_experiment(num_blocks=2, id="new").plan, {})
    assert choice.taken == (LEG,)
    assert choice.left["static-b2"] == "old has no such leg"


def test_a_leg_that_read_another_text_is_run_and_one_of_which_it_is_not_known_is_taken(
    make_experiment: Make, complete: Complete
) -> None:
    source = make_experiment(id="old")
    complete(source, LEG, text_digest="a" * 64, tokenizer_digest="b" * 64, num_text_shards=3)
    complete(source, OTHER)  # by a version that did not look
    same = TextFacts(text_digest="a" * 64, tokenizer_digest="b" * 64, num_text_shards=3)
    assert choose(source, source.plan, {None: same}).taken == (LEG, OTHER)
    assert choose(source, source.plan, {}).taken == (LEG, OTHER)  # it is not known what is there now
    grown = replace(same, text_digest="c" * 64, num_text_shards=4)
    choice = choose(source, source.plan, {None: grown})
    assert choice.taken == (OTHER,)
    seen = f"the text (3 shards then, 4 now; digest {'a' * 12} then, {'c' * 12} now)"
    assert choice.left[LEG] == f"{seen} is not what is there now"
    other_tokens = replace(same, tokenizer_digest="d" * 64)
    assert (
        choose(source, source.plan, {None: other_tokens}).left[LEG].startswith("the tokenizer of the text (digest bbb")
    )


def test_a_copy_is_whole_after_the_old_experiment_is_gone(make_experiment: Make, complete: Complete) -> None:
    source, target = make_experiment(id="old"), make_experiment(id="new")
    complete(source, LEG)
    Path(source.uri, "trials", LEG, "log.txt").write_text("step 0")
    rows, attempts, result = source.trial(LEG).rows(), source.trial(LEG).attempts(), source.trial(LEG).result()
    copy(source, target, (LEG,))
    shutil.rmtree(source.uri)
    record = target.trial(LEG)
    assert (record.rows(), record.attempts(), record.result()) == (rows, attempts, result)
    assert record.state() == "completed"
    assert Path(target.uri, "trials", LEG, "log.txt").read_text() == "step 0"
    origin = record.origin()
    assert origin is not None
    assert (origin.experiment, origin.git_commit) == ("old", "c0ffee")


def test_a_copy_of_a_copy_names_the_experiment_that_ran_it(make_experiment: Make, complete: Complete) -> None:
    first, second, third = (make_experiment(id=name) for name in ("first", "second", "third"))
    complete(first, LEG)
    copy(first, second, (LEG,))
    copy(second, third, (LEG,))
    origin = third.trial(LEG).origin()
    assert origin is not None
    assert origin.experiment == "first"


def test_a_copy_that_was_cut_off_is_removed_and_a_whole_one_stays(make_experiment: Make, complete: Complete) -> None:
    source, target = make_experiment(id="old"), make_experiment(id="new")
    for trial in (LEG, OTHER):
        complete(source, trial)
    copy(source, target, (LEG, OTHER))
    Path(target.uri, "trials", OTHER, "result.json").unlink()
    drop_unfinished_copies(target)
    assert target.trial(LEG).state() == "completed"
    assert target.trial(OTHER).state() == "pending"
    assert not Path(target.uri, "trials", OTHER).exists()
