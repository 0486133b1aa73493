"""An experiment is found by what a user types: its id, the start of it, its folder, its address."""

import errno
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment
from sweeps.records.home import (
    check_on_disk,
    find_experiment,
    list_experiments,
    new_experiment_id,
    storage_root,
    typed_name,
)
from sweeps.records.listing import describe_experiments
from sweeps.spec.errors import UsageError

Make = Callable[..., Experiment]


@pytest.fixture
def root(make_experiment: Make, tmp_path: Path) -> str:
    for name in ("20260101_120000_toy", "20260101_130000_toy", "20260202_120000_capacity"):
        make_experiment(id=name)
    (tmp_path / "storage" / "no_experiment").mkdir()
    return str(tmp_path / "storage")


def test_the_root_is_the_option_else_the_variable_else_the_data_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOCHAT_SWEEP_STORAGE", "/variable")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert storage_root("option") == str(tmp_path / "option")
    assert storage_root(None) == "/variable"
    monkeypatch.delenv("NANOCHAT_SWEEP_STORAGE")
    assert storage_root(None) == "/data/nanochat-sweep"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert storage_root(None) == "/home/somebody/.local/share/nanochat-sweep"


def test_ids_carry_time_and_sweep_and_are_listed_oldest_first(root: str) -> None:
    assert new_experiment_id("toy", datetime(2026, 1, 2, 3, 4, 5)) == "20260102_030405_toy"
    assert list_experiments(root) == ["20260101_120000_toy", "20260101_130000_toy", "20260202_120000_capacity"]


def test_an_id_a_unique_prefix_a_path_and_an_address_all_find_it(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = f"{root}/20260202_120000_capacity"
    monkeypatch.chdir(root)
    for name in ("20260202_120000_capacity", "202602", wanted, "./20260202_120000_capacity", f"file://{wanted}"):
        assert find_experiment(name, root) == wanted
    assert find_experiment("20260202_120000_capacity", "/nowhere") == wanted
    monkeypatch.setenv("NANOCHAT_SWEEP_STORAGE", root)
    assert find_experiment("202602", None) == wanted


def test_an_exact_id_wins_over_longer_ones_that_start_with_it(root: str, make_experiment: Make) -> None:
    make_experiment(id="20260101")
    assert find_experiment("20260101", root) == f"{root}/20260101"


def test_an_ambiguous_prefix_lists_the_candidates(root: str) -> None:
    with pytest.raises(UsageError, match=r"fits 2 experiments .*20260101_120000_toy, 20260101_130000_toy"):
        find_experiment("20260101", root)


def test_what_is_not_found_is_one_sentence_with_the_nearest(root: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 20260202_120000_capacity"):
        find_experiment("20260202_120000_capacitie", root)
    with pytest.raises(UsageError, match="holds none"):
        find_experiment("x", str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="there is no folder"):
        find_experiment("./nowhere", root)


def test_a_folder_that_is_closed_to_the_user_hides_nothing_else(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exists = Path.exists

    def closed(path: Path) -> bool:  # the tests can run as root, to whom nothing is closed
        if "lost+found" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return exists(path)

    (Path(root) / "lost+found").mkdir()
    monkeypatch.setattr(Path, "exists", closed)
    assert len(list_experiments(root)) == len(describe_experiments(root)) == 3


def test_what_a_user_types_finds_the_experiment_again(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{root}/20260202_120000_capacity"
    monkeypatch.setenv("NANOCHAT_SWEEP_STORAGE", "/elsewhere")
    assert typed_name(uri) == uri
    assert typed_name("/a b/c") == "'/a b/c'"
    monkeypatch.setenv("NANOCHAT_SWEEP_STORAGE", root)
    assert typed_name(uri) == "20260202_120000_capacity"
    assert find_experiment(typed_name(uri), None) == uri


@pytest.mark.parametrize("place", ["s3://bucket/x", "gs://bucket"])
def test_an_address_where_a_disk_is_wanted_is_refused(place: str) -> None:
    check_on_disk("--report-to", Path("reports/s3"))
    with pytest.raises(UsageError, match="--report-to takes a folder or file on a disk"):
        check_on_disk("--report-to", Path(place))
