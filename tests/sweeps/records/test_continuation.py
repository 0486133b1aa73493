"""What a new experiment can take over from another one, and that the copies are whole by themselves."""

import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.config import with_overrides
from nanochat.sizes import num_steps
from nanochat.stats import TextFacts
from sweeps.engine.trials.run import is_open
from sweeps.importer.experiment import plan_of, read_runs, store_runs
from sweeps.importer.folder import read_folder
from sweeps.records.continuation import choose_completed, copy, drop_unfinished_copies
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.spec.commands import torchrun_argv
from sweeps.spec.find import load_sweep
from sweeps.spec.plan import Plan, make_plan
from tests.helpers.foreign_logs import log_lines, write_log

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
    choice = choose_completed(source, changed(source.plan, OTHER, optim__matrix_lr=0.5), {})
    assert choice.taken == (LEG,)
    assert choice.left == {
        OTHER: f"optim.matrix_lr is {source.plan.trials[0].config.optim.matrix_lr!r} there, 0.5 here",
        "static_cap1p25-b1": "it is pending there",
        "bf16-b1": "it is interrupted there",
    }


def test_a_leg_that_ran_on_another_number_of_workers_is_run(make_experiment: Make, complete: Complete) -> None:
    source = make_experiment(id="old")
    complete(source, LEG)
    choice = choose_completed(source, replace(source.plan, num_workers=4), {})
    assert choice.taken == ()
    assert choice.left[LEG] == "it ran on 2 workers there, on 4 here"


def test_a_leg_whose_attempts_were_lost_is_run(make_experiment: Make, complete: Complete) -> None:
    source = make_experiment(id="old")
    complete(source, LEG)
    shutil.rmtree(Path(source.uri, "trials", LEG, "attempts"))
    assert choose_completed(source, source.plan, {}).left[LEG] == "its attempts are not there any more"


def test_a_leg_of_another_block_is_none_of_the_old_ones(make_experiment: Make, complete: Complete) -> None:
    source = make_experiment(id="old")
    complete(source, LEG)
    choice = choose_completed(source, make_experiment(num_blocks=2, id="new").plan, {})
    assert choice.taken == (LEG,)
    assert choice.left["static-b2"] == "old has no such leg"


def test_a_leg_that_read_another_text_is_run_and_one_of_which_it_is_not_known_is_taken(
    make_experiment: Make, complete: Complete
) -> None:
    source = make_experiment(id="old")
    complete(source, LEG, text_digest="a" * 64, tokenizer_digest="b" * 64, num_text_shards=3)
    complete(source, OTHER)  # by a version that did not look
    same = TextFacts(text_digest="a" * 64, tokenizer_digest="b" * 64, num_text_shards=3)
    assert choose_completed(source, source.plan, {None: same}).taken == (LEG, OTHER)
    assert choose_completed(source, source.plan, {}).taken == (LEG, OTHER)  # it is not known what is there now
    grown = replace(same, text_digest="c" * 64, num_text_shards=4)
    choice = choose_completed(source, source.plan, {None: grown})
    assert choice.taken == (OTHER,)
    seen = f"the text (3 shards then, 4 now; digest {'a' * 12} then, {'c' * 12} now)"
    assert choice.left[LEG] == f"{seen} is not what is there now"
    other_tokens = replace(same, tokenizer_digest="d" * 64)
    assert (
        choose_completed(source, source.plan, {None: other_tokens})
        .left[LEG]
        .startswith("the tokenizer of the text (digest bbb")
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


def logged(tmp_path: Path) -> Experiment:
    folder = write_log(tmp_path / "logs", "one", log_lines(num_steps=280), capacity="1.0", num_steps=280)
    write_log(folder, "two", log_lines(num_steps=280))
    found = read_folder(folder)
    runs = read_runs(found)
    return store_runs(str(tmp_path / "s"), "logs", found, runs, plan_of(runs, "logs", None, None))


def test_a_log_is_taken_by_its_command_and_one_without_stays(tmp_path: Path) -> None:
    source, plan = logged(tmp_path), make_plan(load_sweep("capacity"))
    choice = choose_completed(source, plan, {})
    leg = "moe_fp8_experts_static_cap1p0-b1"
    assert choice.taken == (leg,)
    assert choice.logged == {leg: "one-b1"}
    assert choice.left["moe_fp8_experts_static_cap0p0-b1"] == (
        "no log fits (one: moe.capacity_factor is 1.0 there, None here; 1 without a known command line)"
    )
    assert choose_completed(source, replace(plan, num_workers=4), {}).taken == ()

    manifest = new_manifest(plan, id="new", argv=[], settings={})
    target = Experiment.create(str(tmp_path / "s"), "new", manifest)
    copy(source, target, choice.taken, choice.logged)
    assert target.trial(leg).state() == "completed"
    origin = target.trial(leg).origin()
    assert origin is not None
    assert origin.experiment == str(tmp_path / "logs")
    assert {row.trial for row in target.trial(leg).rows()} == {leg}
    assert not is_open(target.trial(leg))

    (tmp_path / "s/new/trials" / leg / "imported.json").unlink()  # as if the copy had been cut off
    drop_unfinished_copies(target)
    assert target.trial(leg).rows() == []


@pytest.mark.parametrize("sweep", ["capacity", "precision", "compile_modes", "smoke"])
def test_logs_of_the_commands_that_plan_prints_are_all_taken(sweep: str, tmp_path: Path) -> None:
    plan = make_plan(load_sweep(sweep))
    folder = tmp_path / "logs"
    for place, leg in enumerate(plan.legs):
        steps = num_steps(leg.config)
        write_log(folder, f"run{place}", log_lines(num_steps=steps))
        (folder / f"run{place}.cmd.txt").write_text(shlex.join(torchrun_argv(leg, plan.num_workers)))
        ranks = "Tokens / micro-batch: 131,072", f"Tokens / micro-batch: {16_384 * plan.num_workers:,}"
        log = folder / f"run{place}.log"
        log.write_text(log.read_text().replace(*ranks))
    found = read_folder(folder)
    runs = read_runs(found)
    source = store_runs(str(tmp_path / "s"), "logs", found, runs, plan_of(runs, "logs", None, None))
    choice = choose_completed(source, plan, {})
    assert choice.left == {}
    assert choice.logged == {f"{leg.name}-b1": f"run{place}-b1" for place, leg in enumerate(plan.legs)}
