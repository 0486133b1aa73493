"""A failure of storage is one sentence that names what is full or away, and the command that continues."""

import errno
import shutil
from pathlib import Path

import pytest

from sweeps.engine.processes.storage_failure import is_full, is_of_storage, mount_point, sentence
from sweeps.engine.processes.storage_retry import StorageLost
from sweeps.spec.errors import UsageError


@pytest.mark.parametrize(
    ("seen", "full"),
    [
        (OSError(errno.ENOSPC, "kein Platz"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/x"), True),
        ("the checkpoint at step 3 cannot be stored: [Errno 28] No space left on device: '/x/y'", True),
        ("Server returned non-2xx status code: 507: XMinioStorageFull (no room)", True),
        (OSError(errno.EIO, "Input/output error"), False),
        ("a tensor has no space", False),
    ],
)
def test_what_says_that_there_is_no_room(seen: OSError | str, full: bool) -> None:
    assert is_full(seen) == full


def test_what_is_storages_fault() -> None:
    assert is_of_storage(StorageLost("x"))
    assert is_of_storage(OSError(errno.EIO, "x"))
    assert is_of_storage(OSError(errno.ENOSPC, "x"))
    assert not is_of_storage(PermissionError(errno.EACCES, "x"))
    assert not is_of_storage(UsageError("x"))
    assert not is_of_storage(ValueError("x"))


def test_a_full_disk_is_named_by_where_it_is_mounted(tmp_path: Path) -> None:
    said = sentence(str(tmp_path), "exp", "[Errno 28] No space left on device")
    assert said.startswith(f"the disk at {mount_point(tmp_path)}, which holds {tmp_path}, is full (")
    assert f"of {shutil.disk_usage(tmp_path).total / 2**30:,.1f} GiB are free now); make room there" in said
    assert said.endswith("then continue with nanochat-sweep restore exp")
    assert "\n" not in said


def test_the_disk_is_that_of_the_file_that_found_no_room(tmp_path: Path) -> None:
    said = sentence(str(tmp_path), "exp", "[Errno 28] No space left on device: '/proc/self/x'")
    assert said.startswith("the disk at /proc, which holds /proc/self/x, is full (")


def test_storage_that_is_away_is_named_with_what_was_seen() -> None:
    said = sentence("s3://b/exp", "s3://b/exp", "[Errno 5] HTTP error: 's3://b/exp/x'")
    assert said == (
        "storage s3://b/exp fails ([Errno 5] HTTP error: 's3://b/exp/x'); when it answers again, continue with "
        "nanochat-sweep restore s3://b/exp"
    )
    assert sentence("s3://b/exp", "x", "QuotaExceeded").startswith("the storage of s3://b/exp is full; make room there")
