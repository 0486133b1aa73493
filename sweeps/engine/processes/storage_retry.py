"""An outage of storage costs time, not a leg: a read or a write that fails is tried again for a while.

If it still fails after that, StorageLost says that the leg did nothing wrong. It ends the attempt but not the leg: the
attempt counts as interrupted, and the leg resumes.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from sweeps.spec.errors import SweepToolError, UsageError

T = TypeVar("T")

RETRY_FOR_S = 60.0
PAUSE_S = 2.0


class StorageLost(SweepToolError):
    """Storage refused what must be stored. The leg itself did nothing wrong, so it may be continued."""


def with_retries(action: Callable[[], T], retry_for_s: float | None = None, pause_s: float | None = None) -> T:
    """Does it again while storage refuses, so that an outage of a minute costs a minute and no leg its place."""
    deadline = time.monotonic() + (RETRY_FOR_S if retry_for_s is None else retry_for_s)
    while True:
        try:
            return action()
        except (OSError, UsageError):  # an experiment that cannot be read is a UsageError
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_S if pause_s is None else pause_s)


def or_lost(what: str, action: Callable[[], T]) -> T:
    """Does it with_retries. Raises StorageLost, which begins with `what`, if storage refuses to the end."""
    try:
        return with_retries(action)
    except (OSError, UsageError) as error:
        raise StorageLost(f"{what}: {error}") from error
