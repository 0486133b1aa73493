"""The whole path from manifest to report behind pyarrow's file-system interface, as on an object store."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from sweeps.records import store as store_module
from sweeps.records.documents import Manifest
from sweeps.records.experiment import Experiment
from sweeps.records.home import find_experiment, list_experiments
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.report.build import refresh
from sweeps.spec.errors import Locked, UsageError


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder behind the addresses test://bucket/..."""
    (tmp_path / "bucket").mkdir()
    filesystem = SubTreeFileSystem(str(tmp_path), LocalFileSystem())

    def opened(cls: type, uri: str) -> object:
        return cls(filesystem, "bucket" + urlsplit(uri).path)

    monkeypatch.setattr(store_module.ObjectStorage, "open", classmethod(opened))
    monkeypatch.setattr("sweeps.records.lock.SETTLE_S", 0.01)
    return tmp_path / "bucket"


def test_an_experiment_lives_on_object_storage_from_creation_to_report(
    bucket: Path, make_manifest: Callable[..., Manifest], complete: Callable[..., None]
) -> None:
    experiment = Experiment.create("test://bucket/runs", "x", make_manifest())
    with pytest.raises(UsageError, match="exists already"):
        Experiment.create("test://bucket/runs", "x", make_manifest())
    assert list_experiments("test://bucket/runs") == ["x"]
    assert find_experiment("x", "test://bucket/runs") == "test://bucket/runs/x"
    experiment.lock()
    with pytest.raises(Locked):
        Experiment.open("test://bucket/runs/x").lock()
    complete(experiment, "static-b1")
    attempt = experiment.trial("bf16-b1").start_attempt(num_workers=2)
    experiment.trial("bf16-b1").update_attempt(dataclasses.replace(attempt, end="stopped"))
    refresh(experiment)
    experiment.unlock()
    states = {t.trial.name: t.state for t in read_snapshot(experiment).trials}
    assert (states["static-b1"], states["bf16-b1"]) == ("completed", "interrupted")
    assert pq.read_table(bucket / "runs" / "x" / "export" / "steps.parquet").num_rows == 40
    assert (bucket / "runs" / "x" / "report" / "report.md").read_text().startswith("# toy: `20260101_120000_toy`")
    assert not list(bucket.rglob(".*"))
