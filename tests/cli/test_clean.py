"""`clean` lists and deletes checkpoints that no restore will read, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.stats import CHECKPOINT_INDEX
from sweeps.records.experiment import Experiment
from sweeps.records.trial import TrialRecord

Make = Callable[..., Experiment]


def checkpoint(record: TrialRecord, name: str, *, is_complete: bool = True) -> Path:
    folder = Path(record.train_uri) / name
    folder.mkdir(parents=True)
    (folder / "rank_0.pt").write_bytes(b"x" * 2**20)
    if is_complete:
        (folder / CHECKPOINT_INDEX).write_text("{}")
    return folder


@pytest.fixture
def experiment(make_experiment: Make, complete: Callable[..., None]) -> Experiment:
    """One trial completed, one interrupted, one failed, one dropped."""
    made = make_experiment(id="mine")
    done, interrupted, failed, dropped = made.trials()
    complete(made, done.name)
    interrupted.start_attempt(num_workers=2)
    failed.update_attempt(replace(failed.start_attempt(num_workers=2), end="failed"))
    dropped.drop()
    return made


def test_only_what_no_restore_reads_goes(program: Callable, experiment: Experiment) -> None:
    done, interrupted, failed, dropped = experiment.trials()
    unneeded = [
        checkpoint(done, "a000/step_000020"),
        checkpoint(done, "a000/step_000040"),
        checkpoint(dropped, "a000/step_000020"),
        checkpoint(interrupted, "a000/step_000030", is_complete=False),
    ]
    needed = [checkpoint(interrupted, "a000/step_000020"), checkpoint(failed, "a000/step_000020")]
    before = {p: p.read_bytes() for p in Path(experiment.uri).rglob("*") if p.is_file() and "train" not in p.parts}

    listed = program("clean", "mine")
    assert listed.code == 0
    assert listed.err == "4 checkpoints, 4 MiB can go; delete with: nanochat-sweep clean mine --yes\n"
    assert [line.split() for line in listed.out.splitlines()] == [
        ["trial", "state", "checkpoints", "MiB"],
        [done.name, "completed", "2", "2"],
        [interrupted.name, "interrupted", "1", "1"],
        [dropped.name, "dropped", "1", "1"],
    ]
    assert all(folder.exists() for folder in (*unneeded, *needed)), "without --yes nothing is deleted"

    assert program("clean", "mine", "--yes").err == "4 checkpoints, 4 MiB deleted\n"
    assert not any(folder.exists() for folder in unneeded)
    assert all(folder.exists() for folder in needed)
    assert {path: path.read_bytes() for path in before} == before
    assert program("clean", "mine", "--yes").err == "mine has no checkpoint that can go\n"


def test_a_running_experiment_is_left_alone(program: Callable, experiment: Experiment) -> None:
    folder = checkpoint(experiment.trials()[0], "a000/step_000020")
    experiment.lock()
    try:
        for words in (["clean", "mine"], ["clean", "mine", "--yes"]):
            done = program(*words)
            assert done.code == 75
            assert "stop it first with `nanochat-sweep stop" in done.err
    finally:
        experiment.unlock()
    assert folder.exists()


def test_a_link_in_the_place_of_a_checkpoint_leads_nowhere(
    program: Callable, experiment: Experiment, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    run = Path(experiment.trials()[0].train_uri) / "a000"
    run.mkdir(parents=True)
    (run / "step_000020").symlink_to(outside)
    program("clean", "mine", "--yes")
    assert (outside / "precious").read_text() == "x"
