"""What to say when storage ends a launch: which disk is full, or which storage does not answer, and what to do then."""

import errno
import os
import re
import shutil
from pathlib import Path

from sweeps.engine.processes.storage_retry import can_pass
from sweeps.spec.errors import StorageFailed

RESULT_KEY = "storage_failure"  # of what a driver reports to Ray Tune: the error
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NAMED = re.compile(r"'(/[^']+)'")
_FULL_IN_WORDS = re.compile("|".join([*(os.strerror(number) for number in _FULL), "QuotaExceeded", "StorageFull"]))


def is_full(seen: BaseException | str) -> bool:
    """True if an error, or the text of one, says that there is no room left."""
    is_by_number = isinstance(seen, OSError) and seen.errno in _FULL
    return is_by_number or _FULL_IN_WORDS.search(str(seen)) is not None


def is_of_storage(error: BaseException) -> bool:
    """True if storage failed in a way that can pass, or is full."""
    return isinstance(error, StorageFailed) or can_pass(error)


def sentence(uri: str, typed: str, seen: str) -> str:
    """One sentence about storage that failed; `typed` names the experiment, `seen` is the error.

    The full disk is that of the file in the error, if it names one.
    """
    again = f"nanochat-sweep restore {typed}"
    if not is_full(seen):
        return f"storage {uri} fails ({seen}); when it answers again, continue with {again}"
    named = _NAMED.search(seen)
    place = named[1] if named and not named[1].startswith(uri) else uri
    if "://" in place:
        return f"the storage of {uri} is full; make room there, then continue with {again}"
    disk = mount_point(Path(place))
    return f"the disk at {disk}, which holds {place}, is full{_free(disk)}; make room there, then continue with {again}"


def mount_point(folder: Path) -> Path:
    """The folder at which the disk that holds `folder` is mounted."""
    return next(path for path in (folder, *folder.parents) if os.path.ismount(path))


def _free(disk: Path) -> str:
    try:
        seen = shutil.disk_usage(disk)
    except OSError:
        return ""
    return f" ({seen.free / 2**20:,.0f} MiB of {seen.total / 2**30:,.1f} GiB are free now)"
