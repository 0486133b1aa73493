"""An experiment is made once, opened from wherever it lies, and its state follows from what is stored."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.documents import Manifest
from sweeps.records.experiment import Experiment, experiment_state
from sweeps.spec.errors import CorruptData, Locked, SweepError, UsageError

Make = Callable[..., Experiment]
ALL = ("static-b1", "static_cap1p25-b1", "none_cap1p25-b1", "bf16-b1")


def test_what_is_opened_equals_what_was_created(make_experiment: Make) -> None:
    made = make_experiment(num_blocks=2)
    opened = Experiment.open(made.uri)
    assert opened.manifest == made.manifest
    assert opened.plan == made.plan
    assert [t.name for t in opened.trials()] == [t.name for t in made.plan.trials]


def test_a_moved_experiment_opens_with_everything_in_it(
    make_experiment: Make, complete: Callable[..., None], tmp_path: Path
) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1")
    shutil.move(experiment.uri, tmp_path / "elsewhere")
    moved = Experiment.open(str(tmp_path / "elsewhere"))
    assert moved.trial_states()["static-b1"] == "completed"
    assert moved.trial("static-b1").train_uri == str(tmp_path / "elsewhere" / "trials" / "static-b1" / "train")


def test_a_second_creation_is_refused_with_what_to_do(make_experiment: Make) -> None:
    first = make_experiment()
    with pytest.raises(UsageError, match=r"exists already .* restore /\S+/20260101_120000_toy`"):
        make_experiment()
    first.lock()
    with pytest.raises(Locked, match="is being run by process"):
        make_experiment()
    first.unlock()


@pytest.mark.parametrize("held", ["thesis.tex", ".git", "trials/static-b1/result.json"])
def test_a_folder_that_holds_something_else_is_left_alone(
    make_manifest: Callable[..., Manifest], tmp_path: Path, held: str
) -> None:
    file = tmp_path / "mine" / held
    file.parent.mkdir(parents=True)
    file.write_text("dear to somebody")
    with pytest.raises(UsageError, match=rf"no experiment and not empty: it holds {held.partition('/')[0]}; choose"):
        Experiment.create(str(tmp_path), "mine", make_manifest(id="mine"))
    assert [path for path in (tmp_path / "mine").rglob("*") if path.is_file()] == [file]


def test_an_empty_folder_becomes_the_experiment(make_manifest: Callable[..., Manifest], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert Experiment.create(str(tmp_path), "mine", make_manifest(id="mine")).uri == str(tmp_path / "mine")


def test_storage_that_cannot_be_written_is_one_sentence_and_leaves_nothing(
    make_manifest: Callable[..., Manifest], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written: .*--storage"):
        Experiment.create(str(tmp_path / "file"), "x", make_manifest())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_no_experiment_is_a_usage_error(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="is no experiment"):
            Experiment.open(str(place))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is no experiment"):
        Experiment.open(str(tmp_path / "file"))


@pytest.mark.parametrize("damage", ["torn", "empty", "list", "lacks", "schema", "plan", "plan_and_digest"])
def test_a_damaged_manifest_is_named(make_experiment: Make, damage: str) -> None:
    experiment = make_experiment()
    file = Path(experiment.uri) / "manifest.json"
    values = json.loads(file.read_text())
    if damage == "plan":
        values["plan"]["window_steps"] = 11
    texts = {
        "torn": file.read_text()[:500],
        "empty": "",
        "list": "[]",
        "lacks": json.dumps({k: v for k, v in values.items() if k != "argv"}),
        "schema": json.dumps(values | {"schema": "another/9"}),
        "plan": json.dumps(values),
        "plan_and_digest": json.dumps(values | {"plan": {}, "plan_digest": _digest({})}),
    }
    file.write_text(texts[damage])
    with pytest.raises(CorruptData, match=r"manifest\.json"):
        _ = Experiment.open(experiment.uri).plan


def test_a_stop_request_is_seen_with_its_reason_until_it_is_cleared(make_experiment: Make) -> None:
    experiment = make_experiment()
    other = Experiment.open(experiment.uri)
    assert experiment.stop_requested() is None
    other.request_stop("SIGINT")
    assert experiment.stop_requested() == "SIGINT"
    experiment.clear_requests()
    assert other.stop_requested() is None


def test_a_trial_runs_only_while_the_owner_lives(make_experiment: Make) -> None:
    experiment = make_experiment()
    assert experiment.state() == "interrupted"
    experiment.lock()
    experiment.trial("static-b1").start_attempt(num_workers=2)
    assert (experiment.state(), experiment.trial_states()["static-b1"]) == ("running", "running")
    assert not experiment.ownership_lost()
    experiment.unlock()
    assert (experiment.state(), experiment.trial_states()["static-b1"]) == ("interrupted", "interrupted")


def test_an_experiment_is_done_when_every_trial_is(make_experiment: Make, complete: Callable[..., None]) -> None:
    experiment = make_experiment()
    for name in ALL[:-1]:
        complete(experiment, name)
    assert experiment.state() == "interrupted"
    attempt = experiment.trial(ALL[-1]).start_attempt(num_workers=2)
    experiment.trial(ALL[-1]).update_attempt(dataclasses.replace(attempt, end="failed"))
    assert experiment.state() == "completed_with_failures"
    complete(experiment, ALL[-1])
    assert experiment.state() == "completed"


def test_being_done_does_not_depend_on_an_owner() -> None:
    assert experiment_state(["completed", "completed"], owner_lives=True) == "completed"
    assert experiment_state(["completed", "failed"], owner_lives=True) == "completed_with_failures"
    assert experiment_state(["completed", "pending"], owner_lives=True) == "running"


def _digest(value: object) -> str:
    from nanochat.config import digest

    return digest(value)


def test_an_experiment_grows_without_a_change_of_its_manifest(make_experiment: Make) -> None:
    experiment = make_experiment(num_blocks=2)
    reader, manifest = Experiment.open(experiment.uri), experiment.store.read("manifest.json")
    assert len(reader.trials()) == 8
    experiment.grow(3)
    assert [trial.block for trial in experiment.plan.trials] == [1] * 4 + [2] * 4 + [3] * 4
    assert reader.has_grown()
    assert not reader.has_grown()
    assert reader.plan == experiment.plan == Experiment.open(experiment.uri).plan
    assert experiment.store.read("manifest.json") == manifest
    with pytest.raises(SweepError, match="more than the 8"):
        experiment.grow(9)
    assert experiment.plan.num_blocks == 3


def test_damaged_growth_is_named(make_experiment: Make) -> None:
    experiment = make_experiment()
    experiment.store.write("blocks.json", b"{}")
    with pytest.raises(CorruptData, match=r"blocks\.json"):
        _ = Experiment.open(experiment.uri).plan


def test_a_leg_that_was_dropped_stays_dropped_in_the_blocks_that_are_added(
    make_experiment: Callable[..., Experiment],
) -> None:
    experiment = make_experiment(num_blocks=2)
    for trial in ("static-b1", "bf16-b2"):
        experiment.trial(trial).drop()
    experiment.grow(4)
    dropped = [name for name, state in experiment.trial_states().items() if state == "dropped"]
    assert sorted(dropped) == ["bf16-b2", "bf16-b3", "bf16-b4", "static-b1"]
