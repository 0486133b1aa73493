"""Nothing that is in an experiment leads out of it: no link is followed, and what is no file is not opened."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.continuation import copy
from sweeps.records.experiment import Experiment
from sweeps.records.store import Store
from sweeps.spec.errors import CorruptData


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder next to the store's, with one precious file."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("kept")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "exp"))


ACTS: dict[str, Callable[[Store, str], object]] = {
    "read": lambda store, rel: store.read(rel),
    "write": lambda store, rel: store.write(rel, b"mine"),
    "create": lambda store, rel: store.create(rel, b"mine"),
    "delete tree": lambda store, rel: store.delete_tree(rel),
    "log": lambda store, rel: os.close(store.open_log(rel)),
    "open": lambda store, rel: os.close(store.open_file(rel)),
    "list": lambda store, rel: store.list(rel.rpartition("/")[0]),
    "below": lambda store, rel: store.below(rel.rpartition("/")[0]).list(),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("linked", ["trials", "trials/t"])
def test_no_folder_on_the_way_is_a_link(store: Store, outside: Path, act: str, linked: str) -> None:
    (outside / "t").mkdir()
    place = Path(store.uri, linked)
    place.parent.mkdir(parents=True)
    place.symlink_to(outside if linked == "trials" else outside / "t")
    with pytest.raises(CorruptData, match=rf"{place} is a link, or not the file or folder"):
        ACTS[act](store, "trials/t/precious")
    assert not store.exists("trials/t/precious")
    if act == "delete":
        store.delete("trials/t/precious")
    assert sorted(path.name for path in outside.iterdir()) == ["precious", "t"]
    assert list((outside / "t").iterdir()) == []


@pytest.mark.parametrize("act", ["read", "write", "create", "log", "open"])
def test_what_is_no_folder_in_the_place_of_one_is_damage(store: Store, act: str) -> None:
    for make in (lambda place: place.write_text("x"), os.mkfifo):
        place = Path(store.uri, "trials")
        place.parent.mkdir(exist_ok=True)
        make(place)
        with pytest.raises(CorruptData, match=rf"{place} is a link, or not the file or folder"):
            ACTS[act](store, "trials/t/precious")
        assert not store.exists("trials/t/precious")
        place.unlink()


def test_a_folder_in_the_place_of_a_file_is_damage(store: Store) -> None:
    place = Path(store.uri, "stop.json")
    place.mkdir(parents=True)
    for act in (store.read, store.delete, lambda rel: store.write(rel, b"")):
        with pytest.raises(CorruptData, match=rf"{place} is a link, or not the file or folder"):
            act("stop.json")
    assert place.is_dir()


@pytest.mark.parametrize("act", ["read", "log", "open", "delete tree"])
def test_a_link_in_the_place_of_a_file_is_not_opened(store: Store, outside: Path, act: str) -> None:
    place = Path(store.uri, "a", "log.txt")
    place.parent.mkdir(parents=True)
    place.symlink_to(outside / "precious")
    with pytest.raises(CorruptData, match="is a link"):
        ACTS[act](store, "a/log.txt")
    place.unlink()
    place.symlink_to(outside / "new")  # a log is made if there is none
    with pytest.raises(CorruptData, match="is a link"):
        ACTS[act](store, "a/log.txt")
    assert [path.name for path in outside.iterdir()] == ["precious"]


def test_writing_and_deleting_replace_the_link_and_not_what_it_leads_to(store: Store, outside: Path) -> None:
    Path(store.uri).mkdir()
    for name in ("a", "b"):
        Path(store.uri, name).symlink_to(outside / "precious")
    store.write("a", b"mine")
    store.delete("b")
    with pytest.raises(FileExistsError):
        store.create("a", b"again")
    assert store.read("a") == b"mine"
    assert not store.exists("b")
    assert (outside / "precious").read_text() == "kept"


def test_a_tree_is_deleted_without_what_its_links_lead_to(store: Store, outside: Path) -> None:
    store.write("a/b/c", b"")
    Path(store.uri, "a", "link").symlink_to(outside)
    store.delete_tree("a")
    assert store.everything() == []
    assert (outside / "precious").read_text() == "kept"


@pytest.mark.parametrize("act", ["read", "log", "open"])
def test_a_pipe_is_not_waited_for(store: Store, act: str) -> None:
    Path(store.uri).mkdir()
    os.mkfifo(Path(store.uri, "pipe"))
    with pytest.raises(CorruptData, match="not the file or folder"):
        ACTS[act](store, "pipe")


def test_the_root_is_the_users_word_and_can_be_a_link(store: Store, tmp_path: Path) -> None:
    store.write("a/b", b"1")
    (tmp_path / "link").symlink_to(store.uri)
    assert Store(str(tmp_path / "link")).read("a/b") == b"1"


def test_legs_are_not_taken_over_through_links(
    make_experiment: Callable[..., Experiment], complete: Callable[..., None], outside: Path, tmp_path: Path
) -> None:
    source = make_experiment(id="source")
    name = source.plan.trials[0].name
    complete(source, name)
    for file in ("log.txt", "attempts/000.json"):
        place = Path(source.uri, "trials", name, file)
        kept = place.read_bytes() if place.exists() else None
        place.unlink(missing_ok=True)
        place.symlink_to(outside / "precious")
        target = make_experiment(id=f"target-{file[:3]}")
        with pytest.raises(CorruptData, match="is a link"):
            copy(source, target, (name,))
        copied = [path for path in Path(target.uri, "trials").rglob("*") if path.is_file()]
        assert not any(b"kept" in path.read_bytes() for path in copied)
        place.unlink()
        if kept is not None:
            place.write_bytes(kept)


def test_folders_are_closed_to_others_under_a_umask_that_says_so(store: Store) -> None:
    before = os.umask(0o027)
    try:
        store.write("a/b", b"1")
    finally:
        os.umask(before)
    assert [oct(Path(store.uri, name).stat().st_mode & 0o777) for name in ("", "a", "a/b")] == ["0o750"] * 2 + ["0o640"]


@pytest.mark.parametrize(("umask", "folder_mode", "file_mode"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640)])
def test_an_experiment_is_open_to_whom_the_umask_lets_in(
    make_experiment: Callable[..., Experiment],
    complete: Callable[..., None],
    umask: int,
    folder_mode: int,
    file_mode: int,
) -> None:
    before = os.umask(umask)
    try:
        experiment = make_experiment()
        complete(experiment, "static-b1")
        experiment.lock()
        experiment.unlock()
        descriptor = experiment.trials()[0].open_log()
        assert descriptor is not None
        os.close(descriptor)
    finally:
        os.umask(before)
    found = [Path(experiment.uri), *Path(experiment.uri).rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_dir()} == {folder_mode}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_file()} == {file_mode}
