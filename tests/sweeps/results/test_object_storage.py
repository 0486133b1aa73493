"""The whole path from manifest to report in a bucket."""

import dataclasses
from collections.abc import Callable
from io import BytesIO

import pyarrow.parquet as pq
import pytest

from sweeps.records.documents import Manifest
from sweeps.records.experiment import Experiment
from sweeps.records.home import find_experiment, list_experiments
from sweeps.records.store import Store
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.report.build import refresh
from sweeps.spec.errors import Locked, UsageError
from tests.helpers.buckets import ROOT, bucket_in_memory


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty bucket."""
    bucket_in_memory(monkeypatch)
    return Store(ROOT)


def test_an_experiment_lives_on_object_storage_from_creation_to_report(
    bucket: Store, make_manifest: Callable[..., Manifest], complete: Callable[..., None]
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
    assert pq.read_table(BytesIO(bucket.read("runs/x/export/steps.parquet"))).num_rows == 40
    assert bucket.read("runs/x/report/report.md").startswith(b"# toy: `20260101_120000_toy`")
    assert not [name for name in bucket.below("runs/x").everything() if name.startswith(".")]
