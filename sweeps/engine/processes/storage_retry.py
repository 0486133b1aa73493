"""An outage of storage costs time, not a leg: a read or a write that fails is tried again for a while.

If it still fails after that, StorageLost says that the leg did nothing wrong. It ends the attempt but not the leg: the
attempt counts as interrupted, and the leg resumes.
"""

import errno
import re
import time
from collections.abc import Callable
from typing import TypeVar

from sweeps.spec.errors import StorageFailed, UsageError

T = TypeVar("T")

RETRY_FOR_S = 60.0
PAUSE_S = 2.0


class StorageLost(StorageFailed):
    """Storage failed what must be stored. The leg itself did nothing wrong, so it can be continued."""


# What no waiting changes. A missing file is not among them: that is how a mount that is away looks.
_FINAL = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
}
_FINAL_IN_WORDS = re.compile(r"AWS Error (ACCESS_DENIED|INVALID_|NO_SUCH_BUCKET|SIGNATURE_|UNRECOGNIZED_CLIENT)")


def with_retries(action: Callable[[], T], retry_for_s: float | None = None, pause_s: float | None = None) -> T:
    """Retries the action while storage fails in a way that can pass, so that an outage of a minute costs a minute."""
    deadline = time.monotonic() + (RETRY_FOR_S if retry_for_s is None else retry_for_s)
    while True:
        try:
            return action()
        except (OSError, UsageError, StorageFailed) as error:
            if not can_pass(error) or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_S if pause_s is None else pause_s)


def can_pass(error: BaseException | None) -> bool:
    """True for storage's own failure that another try may not meet, also as the cause of an error in words."""
    if isinstance(error, UsageError | StorageFailed):
        return can_pass(error.__cause__)
    is_final = isinstance(error, OSError) and (error.errno in _FINAL or _FINAL_IN_WORDS.search(str(error)))
    return isinstance(error, OSError) and not is_final


def or_lost(what: str, action: Callable[[], T]) -> T:
    """Does the action with retries. Raises StorageLost, which begins with `what`, if storage still fails."""
    try:
        return with_retries(action)
    except (OSError, UsageError, StorageFailed) as error:
        if isinstance(error, UsageError) and not isinstance(error.__cause__, OSError):
            raise
        raise StorageLost(f"{what}: {error}") from error
