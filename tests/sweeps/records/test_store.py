"""A store's files appear whole, are created once, and read the same on a disk and in a bucket."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.records import buckets
from sweeps.records.store import Store
from sweeps.spec.errors import UsageError
from tests.helpers.buckets import disk_or_bucket
from tests.helpers.contention import all_at_once


class Unreachable:
    """pyarrow.fs where S3 does not know the bucket's region."""

    @staticmethod
    def resolve_s3_region(bucket: str) -> None:
        raise OSError("no such bucket")


@pytest.fixture(params=["disk", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The same root as a plain folder and as a bucket's prefix."""
    return disk_or_bucket(request.param, tmp_path, "root", monkeypatch)


def test_what_is_written_is_read_back_and_listed_by_name(store: Store) -> None:
    store.write("a/b/two.json", b"2")
    store.write("a/b/one.json", b"1")
    store.write("a/b/one.json", b"11")
    assert store.read("a/b/one.json") == b"11"
    assert store.list("a/b") == ["one.json", "two.json"]
    assert store.list("a") == ["b"]
    assert store.list("nowhere") == []
    assert store.exists("a/b/two.json")


def test_a_file_that_is_not_there_raises_when_read_and_not_when_deleted(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.read("a.json")
    store.delete("a.json")
    store.delete_tree("folder")
    store.write("folder/a.json", b"")
    store.delete_tree("folder")
    assert not store.exists("folder/a.json")


def test_create_refuses_a_second_time_and_keeps_the_first_content(store: Store) -> None:
    store.create("x.json", b"first")
    with pytest.raises(FileExistsError):
        store.create("x.json", b"second")
    assert store.read("x.json") == b"first"
    assert store.list() == ["x.json"]


def test_of_many_threads_that_create_one_file_exactly_one_wins(store: Store) -> None:
    won: list[int] = []

    def contend(gate: Callable[[], object], number: int) -> None:
        gate()
        try:
            store.create("x", str(number).encode())
            won.append(number)
        except FileExistsError:
            pass

    all_at_once(contend)
    assert [str(n).encode() for n in won] == [store.read("x")]


def test_creation_is_exclusive_without_hard_links_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    store = Store(str(tmp_path))
    store.create("x", b"1")
    with pytest.raises(FileExistsError):
        store.create("x", b"2")
    assert store.read("x") == b"1"


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    store.write("x", b"old")

    def disk_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left") as refused:
        store.write("x", b"new")
    assert refused.value.filename == str(tmp_path / "x")
    assert store.read("x") == b"old"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "a/./b", ""])
def test_a_path_never_leaves_the_root(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="relative and plain"):
        Store(str(tmp_path)).read(path)


def test_a_root_is_absolute_and_file_addresses_are_plain_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("here").uri == str(tmp_path / "here")
    assert Store(f"file://{tmp_path}/a%20b").local_path("c") == tmp_path / "a b" / "c"


def test_an_address_of_no_known_kind_is_refused_in_one_sentence() -> None:
    with pytest.raises(UsageError, match="cannot be opened"):
        Store("nonsense://bucket/path")


@pytest.mark.parametrize("address", ["file://results/x", "file://~/x", "file:///data/run#1", "s3://", "gs:///x"])
def test_an_address_that_would_become_another_place_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"is no address of a file here|names no bucket"):
        Store(address)


def test_a_bucket_that_cannot_be_asked_for_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "arrow_fs", lambda: Unreachable)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with pytest.raises(UsageError, match="s3://typo/x cannot be opened: no such bucket"):
        Store("s3://typo/x")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("s3://KEY:hunter2@bucket/x", r"address s3://\.\.\.@bucket holds credentials; leave them out"),
        ("s3://bucket/x?region=us-east-1", r"address s3://bucket/x\?region=us-east-1 has a '\?' or '#' part"),
    ],
)
def test_an_address_with_secrets_or_settings_is_refused(address: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refused:
        Store(address)
    assert "hunter2" not in str(refused.value)
