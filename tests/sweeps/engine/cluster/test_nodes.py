"""A cluster of which a node does not reach the storage is rejected, with the node and its reason."""

from pathlib import Path

import pytest

from sweeps.engine.cluster.nodes import check_answers, what_is_missing
from sweeps.spec.errors import NoCluster


def test_nodes_without_the_experiment_are_named_with_their_reasons() -> None:
    two = "10.0.0.2 (two)"  # twice, for several nodes can be on one host
    found = [("10.0.0.1 (one)", None), (two, "it holds no manifest.json there"), (two, "late")]
    with pytest.raises(NoCluster, match=r"/shared/e \(10\.0\.0\.2 \(two\): it holds no.*; 10\.0\.0\.2 \(two\): late"):
        check_answers("/shared/e", found)
    check_answers("/shared/e", [("10.0.0.1 (one)", None)])


def test_what_is_reached_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert what_is_missing(str(tmp_path)) is None
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_another_folder_of_the_same_name_is_told_and_stays_empty(tmp_path: Path) -> None:
    assert what_is_missing(str(tmp_path)) == "it holds no manifest.json there"
    assert what_is_missing(str(tmp_path / "none")) == "it holds no manifest.json there"
    assert list(tmp_path.iterdir()) == []
