"""An experiment is deleted wholly or not at all, on a disk and on object storage, and nothing else with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records import removal
from sweeps.records.documents import Manifest
from sweeps.records.experiment import Experiment
from sweeps.records.removal import check_removable, remove_experiment
from sweeps.records.store import Store
from sweeps.spec.errors import Locked, UsageError
from tests.helpers.buckets import ROOT, bucket_in_memory


@pytest.fixture(params=["disk", "bucket"])
def experiment(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_manifest: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> Experiment:
    """With files in every place, beside a file `other`."""
    root = str(tmp_path / "bucket")
    if request.param == "bucket":
        root = ROOT
        bucket_in_memory(monkeypatch)
    Store(root).write("other", b"stays")
    made = Experiment.create(root, "mine", make_manifest(1, "mine"))
    for name in ("trials/static-b1/rows/a000-p000000.jsonl", "report/report.md", "launcher.log", ".hidden"):
        made.store.write(name, b"something")
    made.trial("static-b1").start_attempt(num_workers=2)
    return made


def storage(experiment: Experiment) -> Store:
    """Where the experiment is."""
    return Store(experiment.uri.rpartition("/")[0])


def test_nothing_of_it_is_left_and_its_neighbour_is(experiment: Experiment) -> None:
    remove_experiment(experiment.uri)
    assert storage(experiment).everything() == ["other"]


def test_who_runs_it_keeps_it(experiment: Experiment) -> None:
    experiment.lock()
    with pytest.raises(Locked):
        remove_experiment(experiment.uri)
    experiment.unlock()
    assert experiment.store.exists("trials/static-b1/rows")


def test_an_experiment_that_holds_others_is_kept(
    experiment: Experiment, make_manifest: Callable[..., Manifest]
) -> None:
    Experiment.create(experiment.uri, "preflight", make_manifest(1, "mine-preflight"))
    assert check_removable(experiment.uri) is not None
    Experiment.create(experiment.uri, "inner", make_manifest(1, "inner"))
    with pytest.raises(UsageError, match="holds other experiments: inner; delete or move them first"):
        remove_experiment(experiment.uri)
    assert experiment.store.exists("inner/manifest.json")


def test_a_kill_in_the_middle_leaves_all_or_what_the_next_removal_takes(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object, **words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(removal.shutil, "rmtree", killed)
        patched.setattr(removal, "_delete", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_experiment(experiment.uri)
    if experiment.store.is_local:
        with pytest.raises(UsageError, match="is no experiment"):
            Experiment.open(experiment.uri)
        Experiment.create(storage(experiment).uri, "mine", experiment.manifest)
        remove_experiment(experiment.uri)
    else:
        assert check_removable_later(experiment) is not None
    assert "other" in storage(experiment).everything()
    assert not [name for name in storage(experiment).everything() if name.startswith(".removed-")]


def check_removable_later(experiment: Experiment) -> Experiment | None:
    """As when the claim of the process that was killed has ended."""
    for name in experiment.store.list("lock"):
        experiment.store.delete(f"lock/{name}")
    return check_removable(experiment.uri)
